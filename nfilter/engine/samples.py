"""The stage kind of sample stages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from nfilter.api.stages import Contract, Fits, State
from nfilter.api.types import Sample
from nfilter.engine.invariants import check_samples, create, decide, taken, values_of
from nfilter.engine.stages import Chunk, Fit, StageRun
from nfilter.models.context import RunContext
from nfilter.store.artefacts import Artefact

_FEWEST = 10
"""With fewer rows, a share says little of a model."""
_COUNTED = {"relabel": "changed", "weigh": "weighed"}


class SampleKind:
    """Calls a sample stage with the samples that no earlier stage dropped; each change becomes a decision."""

    fit_name = "fit"

    def __init__(self, run: StageRun[Sample], contract: Contract) -> None:
        self._label = run.label
        self._contract = contract
        self._known = _ids(run) if contract.new_samples else {}

    def fit(self, stage: Any) -> Fit[Sample] | None:
        return stage.fit if isinstance(stage, Fits) else None

    def shown(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """Yield the samples that were not dropped."""
        return (sample for sample in samples if sample.dropped is None)

    def process(
        self, stage: Any, chunk: Sequence[Sample], state: State, ctx: RunContext
    ) -> Chunk[Sample]:
        """Call ``stage.process``; new samples follow those of the chunk.

        Raises:
            ContractError: if the stage breaks an invariant.
        """
        shown = list(self.shown(chunk))
        returned = (
            values_of(self._label, "process", Sample, stage.process(shown, state, ctx))
            if shown
            else []
        )
        check_samples(self._label, self._contract, shown, returned, self._known)
        was = {sample.id: sample for sample in shown}
        decisions = []
        now: dict[str, Sample] = {}
        for sample in returned:
            origin = was.get(sample.id)
            recorded, decision = (
                create(self._label, sample)
                if origin is None
                else decide(self._label, origin, sample)
            )
            now[sample.id] = recorded
            if decision is not None:
                decisions.append(decision)
        out = [now.pop(sample.id, sample) for sample in chunk]
        if self._contract.new_samples:
            self._known |= {key: False for key in now if key not in self._known}
        return Chunk([*out, *now.values()], decisions)

    def join(self, before: Sequence[Sample], after: Chunk[Sample]) -> None:
        """Take note of the new samples of a chunk that another process made.

        Raises:
            ContractError: if one has the id of a sample of another chunk.
        """
        if not self._contract.new_samples:
            return
        known = {sample.id for sample in before}
        for sample in after.samples:
            if sample.id in known:
                continue
            if sample.id in self._known:
                raise taken(self._label, sample)
            self._known[sample.id] = False

    def count(self, before: Sequence[Sample], after: Chunk[Sample]) -> dict[str, int]:
        """Count the samples that are kept, dropped so far, relabelled and weighed, and the notes with and without a result of calls."""
        counts = Counter(kept=0, dropped=0, changed=0, weighed=0)
        counts.update("kept" if sample.dropped is None else "dropped" for sample in after.samples)
        counts.update(
            _COUNTED[row["action"]] for row in after.decisions if row["action"] in _COUNTED
        )
        notes = (note for sample in after.samples for note in _with_result(sample, self._contract))
        counts.update("read" if _unread(note) is None else "unread" for note in notes)
        return dict(counts)


def _with_result(sample: Sample, contract: Contract) -> Iterator[Mapping[str, Any]]:
    """Yield the notes of a stage that have the result of a call or of a cell, or the reason why there is none.

    Those of weak views are not among them: such a view is reported as a whole.
    """
    for name in contract.writes:
        note = sample.notes.get(name)
        if not isinstance(note, Mapping) or note.get("weak"):
            continue
        if note.get("calls") or ("failure" in note and "answer" not in note):
            yield note


def _unread(note: Mapping[str, Any]) -> str | None:
    """Return why a note has no result of its calls; None if it has one."""
    failure = note.get("failure")
    if isinstance(failure, str):
        return failure
    return "its replies have no answer" if "answer" in note and note["answer"] is None else None


def unread_warning(label: str, contract: Contract, after: Artefact[Sample]) -> str | None:
    """Return a warning if a stage has no result for most rows, with one as an example; else None."""
    counts = after.summary()
    none, some = int(counts.get("unread", 0)), int(counts.get("read", 0))
    if none + some < _FEWEST or none <= some:
        return None
    sample, reason = next(
        (sample, reason)
        for sample in after.samples()
        for note in _with_result(sample, contract)
        if (reason := _unread(note)) is not None
    )
    models = sorted({calls.model for calls in contract.calls})
    remedy = (
        f"; read the replies with nfilter explain, and name a model that follows the instructions: models: {{{models[0]}: ...}}"
        if models
        else ""
    )
    return f"{label}: {none:,} of {none + some:,} rows have no result, such as row {sample.id!r}: {reason}{remedy}"


def live(artefact: Artefact[Sample]) -> Iterator[Sample]:
    """Yield the samples that later stages receive."""
    return (sample for sample in artefact.samples() if sample.dropped is None)


def _ids(run: StageRun[Sample]) -> dict[str, bool]:
    """Map every known id to whether the stage receives its sample."""
    ids = {sample.id: sample.dropped is None for sample in run.before.samples()}
    complete = filter(run.after.has_chunk, range(run.before.chunk_count()))
    made = (sample.id for index in complete for sample in run.after.chunk(index))
    return {**dict.fromkeys(made, False), **ids}
