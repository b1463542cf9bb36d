"""The loop over stages: fit, chunk, call, verify, record, publish. It serves sample stages and token stages.

A ``Step`` processes any chunk of one stage; a ``Division`` decides which process does which chunk.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from nfilter.api.errors import NfilterError
from nfilter.api.events import StageFinished
from nfilter.api.stages import EMPTY_STATE, Contract, State
from nfilter.api.types import Sample, TokenSample
from nfilter.engine.invariants import check_state, check_written, notes_not_written
from nfilter.models.context import RunContext
from nfilter.progress import RunLog
from nfilter.recipe.uses import Use
from nfilter.registry.contracts import contract_of
from nfilter.store.artefacts import Artefact, Begun

T = TypeVar("T", Sample, TokenSample)
Fit: TypeAlias = Callable[[Iterator[T], RunContext], State]


@dataclass(frozen=True, slots=True)
class StageRun(Generic[T]):
    """One stage in this run: its label, its recipe entry, the artefacts that it reads and publishes."""

    label: str
    use: Use
    before: Artefact[T]
    after: Artefact[T]


@dataclass(frozen=True, slots=True)
class Chunk(Generic[T]):
    """The result of a stage for one chunk, and the decisions about its samples."""

    samples: Sequence[T] = ()
    decisions: Sequence[Mapping[str, Any]] = ()


class StageKind(Protocol[T]):
    """The parts that differ between sample stages and token stages; one object per stage."""

    fit_name: str
    """The name of the method that learns from all samples."""

    def fit(self, stage: Any) -> Fit[T] | None:
        """Return the method of ``stage`` that learns from all samples; None if it has none."""
        ...

    def shown(self, samples: Iterable[T]) -> Iterator[T]:
        """Yield the samples that the stage receives."""
        ...

    def process(self, stage: Any, chunk: Sequence[T], state: State, ctx: RunContext) -> Chunk[T]:
        """Call ``stage`` with one chunk, check its result, and derive the decisions.

        Raises:
            ContractError: if the stage breaks an invariant.
        """
        ...

    def join(self, before: Sequence[T], after: Chunk[T]) -> None:
        """Take note of a chunk that another process made.

        Raises:
            ContractError: if it breaks an invariant together with other chunks.
        """
        ...

    def count(self, before: Sequence[T], after: Chunk[T]) -> dict[str, int]:
        """Count the outcomes of a chunk: ``kept``, ``dropped``, ``changed`` and others of this kind."""
        ...


@dataclass(frozen=True, slots=True)
class Step(Generic[T]):
    """One stage that can process its chunks, in any order and in any process.

    ``parts`` determine the stage's artefact; ``state`` is the published result of ``fit``.
    """

    run: StageRun[T]
    parts: Mapping[str, Any]
    contract: Contract
    kind: StageKind[T]
    stage: Any
    state: State
    ctx: RunContext

    def process(self, before: Sequence[T]) -> Chunk[T]:
        """Call the stage with one chunk of its input.

        Raises:
            ContractError: if the stage breaks an invariant.
        """
        return self.kind.process(self.stage, before, self.state, self.ctx)

    def done(self, index: int, before: Sequence[T]) -> Chunk[T]:
        """Return chunk ``index`` of the result; process and publish it if it is not published yet."""
        after = self.run.after
        if after.has_chunk(index):
            return Chunk(after.chunk(index), list(after.decisions_of(index)))
        done = self.process(before)
        after.write_chunk(index, done.samples, done.decisions)
        return done


class Division(Protocol):
    """Decides which process does which chunk of a stage."""

    def chunks(self, step: Step[T]) -> Iterator[tuple[Sequence[T], Chunk[T]]]:
        """Yield every chunk before and after the stage, once, in any order; each is published when it is yielded."""
        ...

    def processes(self, use: Use) -> int:
        """Return the number of processes that share the chunks of a stage."""
        ...


class OneProcess:
    """Processes all chunks in this process, in order."""

    def chunks(self, step: Step[T]) -> Iterator[tuple[Sequence[T], Chunk[T]]]:
        """Yield every chunk, in order."""
        for index, before in enumerate(step.run.before.chunks()):
            yield before, step.done(index, before)

    def processes(self, use: Use) -> int:
        """Return 1."""
        return 1


def step_of(
    run: StageRun[T],
    kind_of: Callable[[StageRun[T], Contract], StageKind[T]],
    ctx: RunContext,
    parts: Mapping[str, Any],
    state_of: Callable[[StageKind[T], Any], State],
) -> Step[T]:
    """Return the step of a stage; ``state_of`` learns or reads the state of its ``fit``."""
    stage = run.use.item.cls(run.use.config)
    contract = contract_of(run.use.item.cls, run.use.config)
    kind = kind_of(run, contract)
    return Step(run, parts, contract, kind, stage, state_of(kind, stage), ctx)


def run_stage(
    run: StageRun[T],
    kind_of: Callable[[StageRun[T], Contract], StageKind[T]],
    ctx: RunContext,
    parts: Mapping[str, Any],
    division: Division,
) -> StageFinished:
    """Run one stage, or reuse the artefact of an earlier run if it has equal ``parts`` and is undamaged.

    Raises:
        ContractError: if the stage breaks an invariant; the chunk concerned is not published.
    """
    start = time.monotonic()
    begun = run.after.begin(parts)
    log_begun(run.label, begun, ctx.log)
    if begun.status == "reused":
        return _finished(run.label, run.after.summary(), 0.0, reused=True)
    step = step_of(run, kind_of, ctx, parts, lambda kind, stage: _state(run, kind, stage, ctx))
    counts = _chunks(step, division)
    seconds = time.monotonic() - start
    run.after.finish(
        {
            **counts,
            "samples": counts["kept"] + counts["dropped"],
            "seconds": seconds,
            "report": dict(step.state.values).get("report"),
            "plugin": run.use.item.origin,
        }
    )
    return _finished(run.label, counts, seconds, reused=False)


def log_begun(label: str, begun: Begun, log: RunLog) -> None:
    """Log why the artefact of an earlier run is not reused."""
    if begun.status == "changed":
        log.info(f"{label}: running again, because its inputs changed: {begun.why}")
    elif begun.status == "damaged":
        log.warning(
            f"{label}: {begun.why}; it runs again, without repeating the calls in the journal"
        )


def _finished(
    label: str, counts: Mapping[str, Any], seconds: float, *, reused: bool
) -> StageFinished:
    return StageFinished(
        label, counts["kept"], counts["dropped"], counts["changed"], seconds, reused
    )


def _state(run: StageRun[T], kind: StageKind[T], stage: Any, ctx: RunContext) -> State:
    """Return the stored state of a stage, or fit, store and read it back; an empty one for a stage without ``fit``."""
    fit = kind.fit(stage)
    if fit is None:
        return EMPTY_STATE
    state = run.after.read_state()
    if state is None:
        learned = fit(kind.shown(run.before.samples()), ctx)
        run.after.write_state(check_state(run.label, kind.fit_name, learned))
        state = run.after.read_state()
    if state is None:
        raise NfilterError(f"{run.label}: its state was not published")
    return state


def _chunks(step: Step[T], division: Division) -> Mapping[str, int]:
    """Publish every chunk that is not published yet, and count the outcomes of all chunks."""
    run, kind, contract = step.run, step.kind, step.contract
    counts = Counter(kind.count((), Chunk()))
    missing, received = set(contract.writes), 0
    summary = run.before.summary()
    with step.ctx.progress(summary.get("samples") or summary.get("read"), run.label) as bar:
        for before, done in division.chunks(step):
            shown = {sample.id for sample in kind.shown(before)}
            left_out = {sample.id for sample in before} - shown
            missing &= notes_not_written(
                contract, (sample for sample in done.samples if sample.id not in left_out)
            )
            received += len(shown)
            counts.update(kind.count(before, done))
            bar.advance(len(before))
    check_written(run.label, contract, missing, received)
    return counts
