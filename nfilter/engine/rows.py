"""Write cleaned.jsonl, rows in their original shape, and dropped.jsonl, rows with reasons."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from nfilter.api.types import Sample
from nfilter.recipe.model import Recipe
from nfilter.store.artefacts import Artefact
from nfilter.store.files import publishing
from nfilter.store.run_directory import RunDirectory

CLEANED = "cleaned.jsonl"
DROPPED = "dropped.jsonl"


@dataclass(frozen=True, slots=True)
class _Decisions:
    """The decisions of all stages about the samples of one chunk."""

    dropped_by: dict[str, str] = field(default_factory=dict)
    relabelled: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, artefacts: Sequence[Artefact[Sample]], index: int) -> _Decisions:
        decisions = cls()
        for artefact in artefacts:
            for decision in artefact.decisions_of(index):
                if decision["action"] == "drop":
                    decisions.dropped_by[decision["id"]] = decision["stage"]
                elif decision["action"] == "relabel":
                    decisions.relabelled.add(decision["id"])
        return decisions


def write_rows(
    directory: RunDirectory, recipe: Recipe, last: Artefact[Sample], at_encoding: Mapping[str, str]
) -> dict[str, int]:
    """Publish both files, one chunk in memory at a time, and count their rows.

    ``last`` is the last stage's artefact; ``at_encoding`` has the reasons of samples that encoding dropped, by id.
    """
    source = recipe.source.use.item.cls(recipe.source.use.config, recipe.base_dir)
    artefacts = [artefact for _, artefact in directory.stages()]
    counts = {"kept": 0, "dropped": 0, "relabelled": 0}
    with (
        publishing(directory.path / CLEANED) as cleaned,
        publishing(directory.path / DROPPED) as dropped,
    ):
        for index, chunk in enumerate(last.chunks()):
            # A stage's chunk corresponds to the chunk with the same number of the stage before.
            decisions = _Decisions.of(artefacts, index)
            counts["relabelled"] += len(decisions.relabelled - set(decisions.dropped_by))
            for sample in chunk:
                reason = sample.dropped or at_encoding.get(sample.id)
                row = source.restore(sample)
                if reason is None:
                    counts["kept"] += 1
                    _write(cleaned, row)
                else:
                    counts["dropped"] += 1
                    stage = decisions.dropped_by.get(sample.id, "encode")
                    _write(dropped, {"id": sample.id, "stage": stage, "reason": reason, "row": row})
    return counts


def _write(out: IO[str], row: Any) -> None:
    out.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
