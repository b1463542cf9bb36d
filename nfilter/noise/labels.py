"""Label noise, put into data whose labels are right: which rows, which wrong values, and the truth kept beside.

The rows are those that RobustFT's published files flip. A row's wrong value is its own: it depends on the seed and the
row's id, so that a row that is wrong at 30% is wrong in the same way at 50% and at 70%. A preference pair is made wrong by exchanging
its two responses.
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Annotated, Any, Final

from pydantic import Field, model_validator

from nfilter.api.data import Source
from nfilter.api.errors import SourceError
from nfilter.api.settings import StageConfig
from nfilter.api.types import JSON, Row, Sample
from nfilter.noise.label_corruption import LabelKind, answer_pool, plain, wrong_value
from nfilter.noise.responses import KINDS, TokenNoiseKind, plant
from nfilter.store.files import publishing

OptionsOf = Callable[[Sample], Sequence[str] | None]


class NoiseConfig(StageConfig):
    """The share of labels to corrupt, and how. ``seed`` None uses the seed of the run.

    ``wrong`` names a column that holds a wrong answer of each row, or a list of them, to put in place of a made-up one:
    the answers of a weaker annotator, or a model's own mistakes. The column is taken off every row. ``tokens`` is
    the share of the responses' characters that is noise of these ``kinds`` (``nfilter.noise.responses``), right labels and wrong.
    """

    ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0, description="Share of the labels that is made wrong, 0 to 1."
    )
    seed: int | None = Field(
        default=None, description="Seed of the noise; null takes that of the run."
    )
    wrong: str | None = Field(
        default=None,
        description="A column with a wrong answer, or a list of them, for each row; null makes wrong answers up.",
    )
    tokens: Annotated[float, Field(ge=0, le=0.9)] = Field(
        default=0.0, description="Share of the responses' characters that is noise, 0 to 0.9."
    )
    kinds: Annotated[tuple[TokenNoiseKind, ...], Field(min_length=1)] = Field(
        default=KINDS, description="The kinds of noise in responses."
    )

    @model_validator(mode="after")
    def _says_how_much(self) -> NoiseConfig:
        if not {"ratio", "tokens"} & self.model_fields_set:
            raise ValueError(
                "say how much: ratio: 0.3 (of the labels), tokens: 0.3 (of the text of the responses), or both"
            )
        if len(set(self.kinds)) < len(self.kinds):
            raise ValueError("kinds: each kind once")
        return self


@dataclass(frozen=True, slots=True)
class Injected:
    """Counts of ``inject_file``: rows written, rows corrupted, and unreadable rows."""

    rows: int
    flipped: int
    unreadable: int


def flipped(n: int, ratio: float, seed: int) -> frozenset[int]:
    """Indices of the rows that get a wrong label: ``random.Random(seed).sample(range(n), int(n * ratio))``.

    This is exactly RobustFT's rule, so the rows can be reproduced in one line. Levels of 1/3 and above are nested.
    Below that ``sample`` may draw by another method, and the level is then a draw of its own.
    """
    return frozenset(random.Random(seed).sample(range(n), int(n * ratio)))


def listed_options(sample: Sample) -> Sequence[str] | None:
    """The options in ``meta["options"]``, or None."""
    options = sample.meta.get("options")
    if isinstance(options, Sequence) and not isinstance(options, str):
        return [str(option) for option in options]
    return None


def inject(
    rows: Sequence[Row],
    config: NoiseConfig,
    seed: int,
    kind: LabelKind,
    options_of: OptionsOf = listed_options,
) -> list[Row]:
    """Corrupt ``config.ratio`` of the responses and keep each original response as the truth of its row.

    Noise inside responses comes on top (``config.tokens``); where it stands is known for the rows with a right label.

    ``seed`` is used where the config has none. A row whose column ``config.wrong`` has nothing but its own answer gets a
    made-up wrong one. In a preference pair the two responses are exchanged. Raises SourceError where a row has a truth already: what its label is wrong in is then not for
    this function to say; and where no row has the column.
    """
    known = next((row.sample.id for row in rows if row.truth is not None), None)
    if known is not None:
        raise SourceError(
            f"sample {known!r} has a true label already; noise goes into data whose labels are right:"
            " leave out `truth`, or leave out the noise"
        )
    pairs = any(row.sample.rejected is not None for row in rows)
    if pairs and (config.wrong is not None or config.tokens):
        field = "wrong" if config.wrong is not None else "tokens"
        raise SourceError(
            f"noise: {field} is for rows with one response; preference pairs are flipped: leave out `{field}` and type ratio: 0.2"
        )
    seed = seed if config.seed is None else config.seed
    rows, given = _given(rows, config.wrong)
    wrong = flipped(len(rows), config.ratio, seed)
    needed = kind != "choice" and not pairs
    pool = answer_pool(row.sample.response for row in rows) if needed else ()
    done = []
    for at, row in enumerate(rows):
        sample = row.sample
        if at in wrong and sample.rejected is not None:
            sample = replace(sample.swap("planted"), why=sample.why)
        elif at in wrong:
            response = _one_of(given[at], sample, seed) or wrong_value(
                sample.response,
                kind,
                seed=seed,
                key=sample.id,
                options=options_of(sample),
                pool=pool,
            )
            # not `relabel`: injected noise must not appear in the records that stages can read
            sample = sample.relabel(response, "planted")
            sample = replace(sample, why=row.sample.why)
        done.append(replace(row, sample=sample, truth=row.sample.response))
    if not config.tokens:
        return done
    planted = plant(done, config.tokens, config.kinds, seed)
    # In a wrong label no part is known to be correct.
    return [replace(row, noise=None) if at in wrong else row for at, row in enumerate(planted)]


def _given(
    rows: Sequence[Row], column: str | None
) -> tuple[Sequence[Row], Sequence[Sequence[str]]]:
    """Remove ``column`` from the rows and return its values; a stage that reads it would know which answers are wrong."""
    if column is None:
        return rows, [()] * len(rows)
    if rows and not any(column in row.sample.meta for row in rows):
        columns = ", ".join(dict.fromkeys(name for row in rows for name in row.sample.meta))
        raise SourceError(
            f"noise: wrong: no row has a column {column!r}; besides question and answer there is: {columns or 'nothing'}"
        )
    bare, given = [], []
    for row in rows:
        meta = dict(row.sample.meta)
        value = meta.pop(column, None)
        values = value if isinstance(value, list | tuple) else [value]
        given.append([str(each) for each in values if each is not None])
        bare.append(replace(row, sample=replace(row.sample, meta=meta)))
    return bare, given


def _one_of(values: Sequence[str], sample: Sample, seed: int) -> str | None:
    wrong = [value for value in values if plain(value) not in ("", plain(sample.response))]
    return random.Random(f"{seed}:{sample.id}").choice(wrong) if wrong else None


def inject_file(
    source: Source,
    out: Path,
    config: NoiseConfig,
    *,
    seed: int = 0,
    kind: LabelKind,
    column: str = "truth",
) -> Injected:
    """Write the source's rows with noise to ``out`` (``.jsonl`` or ``.csv``), the truth in ``column``.

    The file appears whole or not at all, and its folder is made if it is missing. Rows that cannot be read are left out and
    counted.

    Raises:
        SourceError: no row can be read, ``column`` is taken, or ``out`` is of another kind.
        StoreError: ``out`` cannot be written.
    """
    write = _WRITERS.get(out.suffix.lower())
    if write is None:
        raise SourceError(f"{out}: noise is written as .jsonl or .csv; give it one of these names")
    items = list(source.read())
    rows = [item for item in items if isinstance(item, Row)]
    if not rows:
        raise SourceError("no row of the source can be read, so that there is nothing to write")
    noisy = inject(rows, config, seed, kind)
    columns: dict[str, None] = {}
    for row in noisy:
        columns |= dict.fromkeys(source.restore(row.sample))
    if column in columns:
        raise SourceError(f"the rows have a column {column!r} already; name another for the truth")
    with publishing(out) as file:
        records = ({**source.restore(row.sample), column: row.truth} for row in noisy)
        write(file, records, [*columns, column])
    changed = sum(row.sample.response != row.truth for row in noisy)
    return Injected(len(noisy), changed, len(items) - len(rows))


def _write_json_lines(
    file: IO[str],
    rows: Iterable[Mapping[str, JSON]],
    columns: Sequence[str],  # noqa: ARG001
) -> None:
    for row in rows:
        file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def _write_csv(file: IO[str], rows: Iterable[Mapping[str, JSON]], columns: Sequence[str]) -> None:
    writer = csv.DictWriter(file, columns, restval="", lineterminator="\r\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in row.items()})


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_Write = Callable[[IO[str], Iterable[Mapping[str, JSON]], Sequence[str]], None]
_WRITERS: Final[Mapping[str, _Write]] = {
    ".jsonl": _write_json_lines,
    ".csv": _write_csv,
}
