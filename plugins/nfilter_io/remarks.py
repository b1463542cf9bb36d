"""Remarks on columns beside the answers: copies of them, which a new label makes wrong, and columns that may be the truth."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from nfilter_io.cells import RowError, as_text, quoted
from nfilter_io.label_sets import read_class
from nfilter_io.layout import Layout
from nfilter_io.multiple_choice import guess_form, read_answer

_LEAST: Final = 10  # rows with both cells
_MOST_TEXT: Final = 100  # characters of an answer that is compared
_LONG: Final = 20  # characters of a response that no text holds by chance
_READABLE: Final = 0.95
_TEXTS: Final = ("prompt", "alpaca")
_TELLING: Final = re.compile(
    r"truth|gold|gt|true|clean|correct|original|noisy|given|annot|label|answer|target",
    re.IGNORECASE,
)
_ANSWER: Final = {
    "choice": "answer",
    "label": "label",
    "alpaca": "output",
    "prompt": "response",
}

Key = Callable[[Any, Mapping[str, Any]], str | None]
"""The answer that a cell of a row names; None for any other cell."""


def remarks(rows: Sequence[Mapping[str, Any]], layout: Layout) -> Iterator[str]:
    """Yield a sentence for each column that names the same answers as the column of the answers, from the first rows."""
    role = _ANSWER.get(layout.shape)
    if role is None:
        return
    answer = layout.column(role)
    if layout.shape == "label" and len(layout.classes.names) == 1:
        yield f"all rows have the same {answer!r}, {quoted(layout.classes.names[0])}: no label can be told from another"
    if layout.shape == "label":
        yield from _variants(layout.classes.names, answer)
    read = {layout.id, layout.truth, layout.weight, *layout.used_columns()}
    own = _key(layout, answer, rows)
    for column in dict.fromkeys(name for row in rows for name in row if name not in read):
        yield from _remark(rows, layout, (role, answer, own), column)


def _variants(names: Sequence[str], column: str) -> Iterator[str]:
    """Name the first two classes that differ in case or white space only."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(" ".join(name.casefold().split()), name)
        if other != name:
            yield (
                f"the classes {quoted(other)} and {quoted(name)} of {quoted(column)} differ only in case or white space, and count as two; "
                "write one of them into all rows"
            )
            return


def _remark(
    rows: Sequence[Mapping[str, Any]], layout: Layout, answers: tuple[str, str, Key], column: str
) -> Iterator[str]:
    role, answer, own = answers
    filled = [row for row in rows if row.get(column) not in (None, "")]
    if layout.shape in _TEXTS and _contains_answers(filled, answer, column):
        yield _copy_text(layout, role, answer, column, [])
        return
    labelled = ((own(row.get(answer), row), row) for row in filled)
    pairs = [(label, row) for label, row in labelled if label is not None]
    if len(pairs) < _LEAST or len({label for label, _ in pairs}) < 2:
        return
    if _is_copy([(label, _plain(row[column])) for label, row in pairs]) and (
        layout.shape != "choice" or _TELLING.search(column)
    ):
        yield _copy_text(layout, role, answer, column, [label for label, _ in pairs])
        return
    if not _TELLING.search(column):
        return
    other = _key(layout, column, rows)
    named = [(label, other(row[column], row)) for label, row in pairs]
    known = [(label, name) for label, name in named if name is not None]
    same = sum(label == name for label, name in known)
    if len(known) < _READABLE * len(named) or len({name for _, name in known}) < 2 or not same:
        return
    if same == len(known):
        yield _copy_text(layout, role, answer, column, [label for label, _ in pairs])
        return
    yield (
        f"the column {quoted(column)} has the answer of {quoted(answer)} in {same} of {len(known)} rows: if it has the true answers, "
        f"`truth: {column}` compares the run with them; if it has those to clean, type `columns: {{{role}: {column}}}`"
    )


def _copy_text(layout: Layout, role: str, answer: str, column: str, labels: Sequence[str]) -> str:
    text = (
        f"the column {quoted(column)} says the same as {quoted(answer)}, and stays as it is where an answer is replaced: remove it, "
        "or make it again from the cleaned rows"
    )
    if layout.shape == "label" and all(re.fullmatch(r"-?\d+(\.0)?", label) for label in labels):
        text += f"; `columns: {{{role}: {column}}}` reads it in place of the numbers"
    return text


def _contains_answers(rows: Sequence[Mapping[str, Any]], answer: str, column: str) -> bool:
    """Whether the texts of a column hold the responses, as a prompt and a response in one text do."""
    pairs = [
        (row[answer], row[column])
        for row in rows
        if isinstance(row.get(answer), str) and isinstance(row[column], str)
    ]
    texts = [(response.strip(), text) for response, text in pairs if len(response) >= _LONG]
    held = sum(response in text for response, text in texts)
    return len(texts) >= _LEAST and held >= _READABLE * len(texts)


def _is_copy(pairs: Sequence[tuple[str, str | None]]) -> bool:
    """Whether each answer stands beside one text of its own."""
    texts: dict[str, str] = {}
    for label, text in pairs:
        if text is None or texts.setdefault(label, text) != text:
            return False
    return len(set(texts.values())) == len(texts) and 2 * len(texts) <= len(pairs)


def _plain(value: Any) -> str | None:
    if isinstance(value, bool):
        return str(value)
    try:
        text = as_text(value, "")
    except RowError:
        return None
    return text if len(text) <= _MOST_TEXT else None


def _key(layout: Layout, column: str, rows: Sequence[Mapping[str, Any]]) -> Key:
    if layout.shape == "label":
        return lambda value, _row: _class(value, layout)
    if layout.shape != "choice":
        return lambda value, _row: _plain(value)
    cells = []
    for row in rows:
        try:
            cells.append((row.get(column), layout.options(row)))
        except RowError:
            continue
    form = layout.answer_form if column == layout.column("answer") else guess_form(cells)

    def option(value: Any, row: Mapping[str, Any]) -> str | None:
        try:
            return read_answer(value, layout.options(row), form, column).letter
        except RowError:
            return None

    return option


def _class(value: Any, layout: Layout) -> str | None:
    try:
        return read_class(value, layout.classes, "")[0]
    except RowError:
        return None
