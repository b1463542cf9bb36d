"""truth.jsonl: the known truth, stored beside the ingested source; only metrics and the truth arm read it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nfilter.api.types import JSON, NoiseSpan, Row, Sample
from nfilter.store.artefacts import Artefact

TRUTH = "truth.jsonl"


def truth_row(row: Row) -> dict[str, JSON]:
    """Return the line of a row: its id, and its true label and the noise in its response if known."""
    out: dict[str, JSON] = {"id": row.sample.id}
    if row.truth is not None:
        out["truth"] = row.truth
    if row.noise is not None:
        out["noise"] = [[span.start, span.end, span.kind] for span in row.noise]
    return out


def truth_of(source: Artefact[Sample]) -> dict[str, str]:
    """Return the true labels by id; only for metrics and the truth arm."""
    return {row["id"]: row["truth"] for row in _known(source, "truth")}


def noise_of(source: Artefact[Sample]) -> dict[str, tuple[NoiseSpan, ...]]:
    """Return the noise spans of responses by id, of the samples for which they are known; only for metrics."""
    return {
        row["id"]: tuple(NoiseSpan(start, end, kind) for start, end, kind in row["noise"])
        for row in _known(source, "noise")
    }


def _known(source: Artefact[Sample], what: str) -> Iterator[dict[str, Any]]:
    return (row for row in source.rows_beside(TRUTH) if what in row)
