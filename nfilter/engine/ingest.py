"""Read a source into the first artefact: samples, the quarantine, and the truth, which stages cannot see."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nfilter.answers import build as build_answers
from nfilter.api.data import IdentifiesData
from nfilter.api.errors import ContractError, SourceError
from nfilter.api.ids import SeenTexts
from nfilter.api.types import JSON, Row, Sample, Unreadable
from nfilter.noise.labels import inject
from nfilter.recipe.model import Recipe
from nfilter.recipe.not_carried import NotCarried
from nfilter.recipe.uses import SourceUse
from nfilter.registry.contracts import rows_of
from nfilter.registry.provenance import core_code
from nfilter.store.artefacts import Artefact
from nfilter.store.files import digest, write_jsonl
from nfilter.store.truth import TRUTH, truth_row

QUARANTINE = "quarantine.jsonl"


@dataclass(frozen=True, slots=True)
class Subset:
    """The rows at these places among the readable rows of a source, from 0, in rising order."""

    places: tuple[int, ...]


Limit = int | Subset | None
"""How much of a source is read: the first so many readable rows, a subset of them, or all."""


@dataclass(frozen=True, slots=True)
class Ingested:
    """Counts of a source: rows read, rows that cannot be read, rows with a known truth.

    ``not_carried`` counts rows by content that a sample cannot represent.
    """

    read: int
    unreadable: int
    with_truth: int
    not_carried: Mapping[str, int] = field(default_factory=dict)


def source_parts(recipe: Recipe, limit: Limit) -> dict[str, Any]:
    """Return the parts of the source's fingerprint by name: all that determines its rows and chunks."""
    source = recipe.source
    return {
        "data": _data(source, recipe.base_dir),
        "plugin": source.use.item.identity,
        "plugin code": source.use.item.code,
        "nfilter's code": core_code(),
        "config": source.dump(),
        "seed": recipe.seed,
        "limit": list(limit.places) if isinstance(limit, Subset) else limit,
        "chunk": recipe.chunk,
        "answer": recipe.answer.model_dump(mode="json"),
    }


def data_digest(source: SourceUse, base_dir: Path) -> str:
    """Return the SHA-256 of a source's plugin and its file's bytes, independent of its settings and the seed."""
    return digest(source.use.item.identity, _data(source, base_dir))


def _data(source: SourceUse, base_dir: Path) -> str:
    cls = source.use.item.cls
    if issubclass(cls, IdentifiesData):
        return str(cls.identity(source.use.config, base_dir))
    path = getattr(source.use.config, "path", None)
    return _path_digest(base_dir / str(path)) if path else ""


def _path_digest(path: Path) -> str:
    if path.is_dir():
        entries = sorted(item for item in path.rglob("*") if item.is_file())
        return digest(
            [[item.name, item.stat().st_size, item.stat().st_mtime_ns] for item in entries]
        )
    if not path.is_file():
        return ""
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def rows(source: SourceUse, recipe: Recipe, limit: Limit = None) -> Iterator[Row | Unreadable]:
    """Yield the rows of a source, with noise injected if the recipe has a section noise; ``limit`` counts readable rows.

    Raises:
        SourceError: if the noise does not fit the rows.
    """
    built = source.use.item.cls(source.use.config, recipe.base_dir)
    stream: Iterator[Row | Unreadable] = _limited(rows_of(built), limit)
    if source.noise is None:
        yield from stream
        return
    read: list[Row] = []
    for row in stream:
        if isinstance(row, Unreadable):
            yield row
        else:
            read.append(row)
    kind = build_answers(recipe.answer)
    try:
        noisy = inject(read, source.noise, recipe.seed, recipe.answer.kind, kind.options)
    except SourceError as error:
        place = recipe.document.place((*source.use.where, "noise"))
        raise SourceError(f"{place}: {error}") from error
    yield from noisy


def _limited(stream: Iterable[Row | Unreadable], limit: Limit) -> Iterator[Row | Unreadable]:
    places = None if not isinstance(limit, Subset) else frozenset(limit.places)
    end = limit if not isinstance(limit, Subset) else max(limit.places, default=-1) + 1
    count = 0
    for row in stream:
        if isinstance(row, Row):
            if end is not None and count >= end:
                return
            count += 1
            if places is not None and count - 1 not in places:
                continue
        yield row


def ingest(
    source: SourceUse,
    recipe: Recipe,
    artefact: Artefact[Sample],
    directory: Path,
    limit: Limit,
) -> Ingested:
    """Read a source into ``artefact``; write quarantine.jsonl and truth.jsonl into ``directory``.

    Raises:
        ContractError: if two rows have the same id.
        SourceError: if no row can be read; the message has the first errors.
    """
    unreadable: list[Unreadable] = []
    truths: list[dict[str, JSON]] = []
    lost = NotCarried()
    seen = SeenTexts()
    count = 0

    def samples() -> Iterator[Sample]:
        nonlocal count
        for row in rows(source, recipe, limit):
            if isinstance(row, Unreadable):
                unreadable.append(row)
                continue
            count += 1
            if not seen.first(row.sample.id):
                raise ContractError(
                    f"source {source.use.name}: two rows have the id {row.sample.id!r}; yield each id once, and "
                    "the other row as Unreadable"
                )
            lost.add(row)
            if row.truth is not None or row.noise is not None:
                truths.append(truth_row(row))
            yield row.sample

    stream = samples()
    for index in itertools.count():
        chunk = list(itertools.islice(stream, recipe.chunk))
        if not chunk:
            break
        artefact.write_chunk(index, chunk, [])
    quarantined = [{"line": row.line, "error": row.error, "raw": row.raw} for row in unreadable]
    beside = {
        QUARANTINE: write_jsonl(directory / QUARANTINE, quarantined),
        TRUTH: write_jsonl(directory / TRUTH, truths),
    }
    known = sum("truth" in row for row in truths)
    if count == 0:
        raise SourceError(_nothing_readable(source, recipe, unreadable))
    done = Ingested(count, len(unreadable), known, lost.counts())
    artefact.finish(asdict(done), beside)
    return done


def _nothing_readable(source: SourceUse, recipe: Recipe, unreadable: list[Unreadable]) -> str:
    path = getattr(source.use.config, "path", source.use.name)
    place = recipe.document.place(source.use.where)
    if not unreadable:
        return f"{place}: {path} has no rows"
    first = "\n".join(f"  {path}:{row.line}: {row.error}" for row in unreadable[:3])
    return (
        f"{place}: none of the {len(unreadable)} rows of {path} can be read; the first errors:\n{first}\n"
        "  name the columns with `columns:`, or convert the file"
    )


def summary(artefact: Artefact[Sample]) -> Ingested:
    """Return the counts of a source that an earlier run read."""
    value: dict[str, Any] = artefact.summary()
    return Ingested(
        value["read"], value["unreadable"], value["with_truth"], value.get("not_carried", {})
    )
