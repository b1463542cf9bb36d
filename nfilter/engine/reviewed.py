"""What people decided about rows, applied between the source and the first stage: an artefact of its own, 00-review."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from nfilter.api.events import StageFinished
from nfilter.api.types import Sample
from nfilter.engine.invariants import decide
from nfilter.engine.stages import log_begun
from nfilter.engine.state import RunState
from nfilter.store.artefacts import Artefact, fingerprint_of
from nfilter.store.review import Review, decided, read_reviews
from nfilter.store.run_directory import REVIEWED, stage_folder

LABEL: Final = stage_folder(0, REVIEWED)
_COUNTED: Final = {"relabel": "changed", "drop": "dropped"}


def apply_reviews(state: RunState, source: Artefact[Sample]) -> Artefact[Sample]:
    """Return the artefact that the first stage reads: the source's, or one in which reviewed rows end as decided.

    A reviewed row is pinned, so that no stage changes it. The source stays as it was read: the arm ``raw`` and the
    metrics use its labels.

    Raises:
        StoreError: when review.jsonl has a fault.
    """
    reviews = decided(read_reviews(state.directory.path).values())
    if not reviews:
        return source
    start = time.monotonic()
    artefact = state.directory.stage(0, REVIEWED)
    parts = {
        "input": state.fingerprints["source"],
        "decisions": [[each.id, each.action, each.label, each.given, each.reason()] for each in reviews.values()],
    }  # fmt: skip
    state.fingerprints[LABEL] = fingerprint_of(parts)
    begun = artefact.begin(parts)
    log_begun(LABEL, begun, state.log)
    if begun.status != "reused":
        _publish(state, source, artefact, reviews, start)
    done: Mapping[str, Any] = artefact.summary()
    state.finished.append(
        StageFinished(
            LABEL,
            done["kept"],
            done["dropped"],
            done["changed"],
            time.monotonic() - start,
            begun.status == "reused",
        )
    )
    state.log.info(f"{LABEL}: {done['report']['pinned']} reviewed rows are pinned")
    return artefact


def _publish(
    state: RunState,
    source: Artefact[Sample],
    artefact: Artefact[Sample],
    reviews: Mapping[str, Review],
    start: float,
) -> None:
    counts: Counter[str] = Counter(kept=0, dropped=0, changed=0, weighed=0)
    pinned = 0
    for index, chunk in enumerate(source.chunks()):
        samples, decisions = [], []
        for sample in chunk:
            review = reviews.get(sample.id)
            if review is None or not _fits(review, sample):
                samples.append(sample)
                continue
            pinned += 1
            done, decision = _decided(sample, review)
            samples.append(done)
            decisions.append(decision)
        counts.update("dropped" if sample.dropped else "kept" for sample in samples)
        counts["changed"] += sum(row["action"] == "relabel" for row in decisions)
        _write(artefact, index, samples, decisions)
    if lost := len(reviews) - pinned:
        state.log.warned.restart(LABEL)
        state.at = LABEL
        state.log.warning(
            f"{lost} of {len(reviews)} reviewed rows are not in the source, or have another label there than when they were "
            "reviewed: their decisions are not used. Review them again"
        )
    artefact.finish(
        {
            **counts,
            "samples": counts["kept"] + counts["dropped"],
            "seconds": time.monotonic() - start,
            "report": {"pinned": pinned, "not_used": lost},
        }
    )


def _fits(review: Review, sample: Sample) -> bool:
    """Whether the decision is about this label; no text takes the place of a call of a tool, or of a response of a pair."""
    same = review.given == sample.response
    if sample.rejected is not None:
        return same and review.label in (None, sample.response, sample.rejected.content)
    return same and not (sample.calls_tools and review.label not in (None, sample.response))


def _write(
    artefact: Artefact[Sample],
    index: int,
    samples: Sequence[Sample],
    decisions: Sequence[Mapping[str, Any]],
) -> None:
    if not artefact.has_chunk(index):
        artefact.write_chunk(index, samples, decisions)


def _decided(sample: Sample, review: Review) -> tuple[Sample, Mapping[str, Any]]:
    """The sample as the person wants it, pinned, and the record of that."""
    reason = review.reason()
    if review.label is None:
        wanted = sample.drop(reason)
    elif review.label != sample.response:
        wanted = sample.relabel(review.label, reason)
    else:
        wanted = sample.keep(reason)
    done, decision = decide(LABEL, sample, wanted)
    assert decision is not None
    return replace(done, pinned=True), decision
