"""The loop over sample stages: chunk, call, verify, record, publish. It knows no stage by name."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nfilter.api.errors import NfilterError
from nfilter.api.events import StageFinished
from nfilter.api.stages import EMPTY_STATE, Contract, Fits, State
from nfilter.api.types import Sample
from nfilter.engine.invariants import (
    check_samples,
    check_state,
    check_written,
    create,
    decide,
    unwritten,
    values_of,
)
from nfilter.models.context import RunContext
from nfilter.progress import RunLog
from nfilter.recipe.model import Use
from nfilter.registry.contracts import contract_of
from nfilter.store.run_directory import Artefact, Begun

_COUNTED = {"relabel": "changed", "weigh": "weighed"}


@dataclass(frozen=True, slots=True)
class StageRun:
    """One stage at work: its name in this run, its recipe entry, where it reads and where it publishes."""

    label: str
    use: Use
    before: Artefact
    after: Artefact


def run_stage(run: StageRun, ctx: RunContext, parts: Mapping[str, Any]) -> StageFinished:
    """Run one stage, or take what an earlier run published of the same ``parts`` and that is still whole.

    Raises:
        ContractError: when the stage breaks an invariant; nothing of the chunk at fault is published.
    """
    start = time.monotonic()
    begun = run.after.begin(parts)
    tell(run.label, begun, ctx.log)
    if begun.status == "reused":
        return _finished(run.label, run.after.summary(), 0.0, reused=True)
    stage = run.use.item.cls(run.use.config)
    contract = contract_of(run.use.item.cls, run.use.config)
    state = _state(run, stage, ctx)
    counts: Counter[str] = Counter(kept=0, dropped=0, changed=0, weighed=0)
    total = run.before.summary().get("samples") or run.before.summary().get("read")
    given = _ids(run) if contract.new_samples else {}
    missing, seen = set(contract.writes), 0
    with ctx.progress(total, run.label) as bar:
        for index, chunk in enumerate(run.before.chunks()):
            if run.after.has_chunk(index):
                samples, decisions = run.after.chunk(index), list(run.after.decisions_of(index))
            else:
                samples, decisions = _process(run.label, stage, contract, chunk, state, ctx, given)
                run.after.write_chunk(index, samples, decisions)
                if contract.new_samples:
                    given |= {sample.id: False for sample in samples if sample.id not in given}
            shown = {sample.id for sample in chunk if sample.dropped is None}
            known = {sample.id for sample in chunk}
            seen += len(shown)
            missing &= unwritten(
                contract, (each for each in samples if each.id in shown or each.id not in known)
            )
            counts.update("kept" if sample.dropped is None else "dropped" for sample in samples)
            counts.update(_COUNTED[row["action"]] for row in decisions if row["action"] in _COUNTED)
            bar.advance(len(chunk))
    check_written(run.label, contract, missing, seen)
    seconds = time.monotonic() - start
    report = dict(state.values).get("report")
    run.after.finish(
        {
            **counts,
            "samples": counts["kept"] + counts["dropped"],
            "seconds": seconds,
            "report": report,
            "plugin": run.use.item.origin,
        }
    )
    return _finished(run.label, counts, seconds, reused=False)


def tell(label: str, begun: Begun, log: RunLog) -> None:
    """Say why what an earlier run published is not used."""
    if begun.status == "changed":
        log.info(f"{label}: running again, as what it is made of changed: {begun.why}")
    elif begun.status == "damaged":
        log.warning(
            f"{label}: {begun.why}; it runs again, and no call in the journal is asked again"
        )


def _finished(
    label: str, counts: Mapping[str, Any], seconds: float, *, reused: bool
) -> StageFinished:
    return StageFinished(
        label, counts["kept"], counts["dropped"], counts["changed"], seconds, reused
    )


def live(artefact: Artefact) -> Iterator[Sample]:
    """The samples that later stages still see."""
    return (sample for sample in artefact.samples() if sample.dropped is None)


def _state(run: StageRun, stage: Any, ctx: RunContext) -> State:
    if not isinstance(stage, Fits):
        return EMPTY_STATE
    state = run.after.read_state()
    if state is None:
        run.after.write_state(check_state(run.label, "fit", stage.fit(live(run.before), ctx)))
        state = run.after.read_state()
    if state is None:
        raise NfilterError(f"{run.label}: its state was not published")
    return state


def _ids(run: StageRun) -> dict[str, bool]:
    """Of all ids that are taken, whether the stage is shown that sample."""
    ids = {sample.id: sample.dropped is None for sample in run.before.samples()}
    whole = itertools.takewhile(run.after.has_chunk, itertools.count())
    made = (sample.id for index in whole for sample in run.after.chunk(index))
    return {**dict.fromkeys(made, False), **ids}


def _process(
    label: str,
    stage: Any,
    contract: Contract,
    chunk: list[Sample],
    state: State,
    ctx: RunContext,
    given: dict[str, bool],
) -> tuple[list[Sample], list[dict[str, Any]]]:
    shown = [sample for sample in chunk if sample.dropped is None]
    returned = (
        values_of(label, "process", Sample, stage.process(shown, state, ctx)) if shown else []
    )
    check_samples(label, contract, shown, returned, given)
    was = {sample.id: sample for sample in shown}
    decisions = []
    now: dict[str, Sample] = {}
    for sample in returned:
        origin = was.get(sample.id)
        recorded, decision = (
            create(label, sample) if origin is None else decide(label, origin, sample)
        )
        now[sample.id] = recorded
        if decision is not None:
            decisions.append(decision)
    known = {sample.id for sample in chunk}
    out = [now.get(sample.id, sample) for sample in chunk]
    out += [sample for key, sample in now.items() if key not in known]
    return out, decisions
