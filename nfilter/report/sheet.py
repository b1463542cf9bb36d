"""audit.csv, the sheet that a person fills in: written without formulas, and read with the answers."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from nfilter.api.errors import StoreError, did_you_mean
from nfilter.store.files import publishing, write_bytes

ANSWER = "label_is_right"
YES = frozenset({"y", "yes", "true", "1"})
NO = frozenset({"n", "no", "false", "0"})
_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "'", "＝", "＋", "－", "＠")


def guard(text: str) -> str:
    """Return ``text`` as a cell: text that a spreadsheet would run as a formula gets an apostrophe in front."""
    return f"'{text}" if text.startswith(_STARTS) else text


def cell_of(text: str) -> str:
    """Return ``text`` as a guarded cell; lone surrogates and NUL, which a CSV file cannot hold, are escape sequences."""
    return guard(text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\0"))


def text_of_cell(cell: str) -> str:
    """Return the text that ``guard`` made a cell of."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_STARTS) else cell


def write(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Publish a sheet in UTF-8 with a byte order mark, which spreadsheets need to detect UTF-8."""
    with publishing(path) as out:
        out.write("\ufeff")
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([cell_of(text) for text in row] for row in rows)


def add(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Add lines to a sheet, by column; what is there stays byte for byte, in the form in which a spreadsheet saved it.

    Rows whose id is in the sheet are left out.
    """
    there = {sample_id for _, sample_id, _ in _cells(path)}
    data = path.read_bytes()
    text = data.decode("utf-8-sig")
    delimiter = _delimiter(text)
    header = [
        cell.strip()
        for cell in next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    ]
    end = "\r\n" if "\r\n" in text else "\n"
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end)
    for row in rows:
        cells = [cell_of(row.get(column, "")) for column in header]
        if not there & {row["id"], guard(row["id"])}:
            writer.writerow(cells)
    added = out.getvalue()
    if added:
        gap = "" if text.endswith(("\n", "\r")) else end
        write_bytes(path, data + (gap + added).encode())


def answers(path: Path, ids: Sequence[str]) -> dict[str, bool]:
    """Return the answers by id: whether the label is right. Empty cells are left out.

    Raises:
        StoreError: if a line has a value that is neither yes nor no, an unknown id or a repeated id; the message names all
            such lines.
    """
    known = {guard(sample_id): sample_id for sample_id in ids}
    known.update((sample_id, sample_id) for sample_id in ids)
    faults: list[str] = []
    given: dict[str, bool] = {}
    seen: set[str] = set()
    for line, sample_cell, cell in _cells(path):
        sample_id = known.get(sample_cell)
        answer = cell.strip().lower()
        if sample_id is None:
            near = did_you_mean(sample_cell, ids)
            faults.append(f"{path}:{line}: no drawn row has the id {sample_cell!r}{near}")
        elif sample_id in seen:
            faults.append(
                f"{path}:{line}: the id {sample_id!r} occurs twice; remove one of the lines"
            )
        elif answer in YES or answer in NO:
            given[sample_id] = answer in YES
        elif answer:
            faults.append(f"{path}:{line}: {ANSWER} is {cell!r}; write y or n, or leave it empty")
        if sample_id is not None:
            seen.add(sample_id)
    if faults:
        raise StoreError("\n".join(faults))
    return given


def has_answers(path: Path) -> bool:
    """Whether the column of answers has any text."""
    return any(cell.strip() for _, _, cell in _cells(path))


def _cells(path: Path) -> list[tuple[int, str, str]]:
    """The line number, id and answer of every row."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StoreError(f"{path}: not UTF-8 (byte {error.start}); save it as CSV UTF-8") from error
    try:
        return _read(path, text)
    except csv.Error as error:
        raise StoreError(f"{path}: not CSV ({error}); save it as CSV UTF-8") from error


def _delimiter(text: str) -> str:
    """The character between cells: a spreadsheet may save semicolons or tabs."""
    return max(",;\t", key=text.split("\n", 1)[0].count)


def _read(path: Path, text: str) -> list[tuple[int, str, str]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text))
    header = [cell.strip() for cell in next(reader, [])]
    for column in ("id", ANSWER):
        if column not in header:
            raise StoreError(
                f"{path}:1: the column {column!r} is missing; put it back, the header was: id, question, ..."
            )
    id_at, answer_at = header.index("id"), header.index(ANSWER)
    out = []
    start = reader.line_num + 1
    for row in reader:
        if any(cell.strip() for cell in row):
            out.append(
                (
                    start,
                    row[id_at] if id_at < len(row) else "",
                    row[answer_at] if answer_at < len(row) else "",
                )
            )
        start = reader.line_num + 1
    return out
