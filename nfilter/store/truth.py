"""The file beside the ingested source that holds what is known to be true; metrics and the truth arm alone read it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nfilter.api.types import JSON, NoiseSpan, Row, Sample
from nfilter.store.artefacts import Artefact

TRUTH = "truth.jsonl"


def truth_row(row: Row) -> dict[str, JSON]:
    """The line of a row: its id, its true label and the noise in its response, as far as they are known."""
    out: dict[str, JSON] = {"id": row.sample.id}
    if row.truth is not None:
        out["truth"] = row.truth
    if row.noise is not None:
        out["noise"] = [[span.start, span.end, span.kind] for span in row.noise]
    return out


def truth_of(source: Artefact[Sample]) -> dict[str, str]:
    """The true labels by id; for metrics and the truth arm alone."""
    return {row["id"]: row["truth"] for row in _known(source, "truth")}


def noise_of(source: Artefact[Sample]) -> dict[str, tuple[NoiseSpan, ...]]:
    """By id, which parts of a response are noise, of the samples of which that is known; for metrics alone."""
    return {
        row["id"]: tuple(NoiseSpan(start, end, kind) for start, end, kind in row["noise"])
        for row in _known(source, "noise")
    }


def _known(source: Artefact[Sample], what: str) -> Iterator[dict[str, Any]]:
    return (row for row in source.rows_beside(TRUTH) if what in row)
