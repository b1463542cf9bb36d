"""Rank 0 of a run: it does every step of the run, offers the chunks of stages to the other ranks, and publishes all results."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from nfilter.api.capabilities import CutTexts
from nfilter.api.errors import DamageError, NfilterError, StoreError
from nfilter.engine.ledger import Ledger
from nfilter.engine.ranks.calls import SharedCalls, remove_calls
from nfilter.engine.ranks.division import alone, must_be_same, other_parts
from nfilter.engine.ranks.place import Place
from nfilter.engine.ranks.records import (
    JOURNAL,
    LOCK,
    LOG,
    RANKS,
    SCORES,
    Claim,
    Offer,
    failure_file,
    rank_folder,
    rank_folders,
    read_failure,
    taken_over,
)
from nfilter.engine.ranks.waiting import Waiting
from nfilter.engine.stages import Chunk, Division, OneProcess, Step, T
from nfilter.engine.state import RunState
from nfilter.recipe.uses import Use
from nfilter.store.artefacts import Artefact, finished, part_digests
from nfilter.store.files import remove
from nfilter.store.journal import Journal

_LOOKS = 40  # looks at the claim of a running rank before it is refused
_PAUSE = 0.05  # seconds between them
_SAME = 20  # looks at one damaged file before it is an error


@contextmanager
def leading(state: RunState, place: Place) -> Iterator[Division]:
    """Yield what shares the chunks of a run's stages with the other ranks of ``place``, in a block around the whole run.

    What ranks of an earlier process left is taken over first, whatever their number.

    Raises:
        StoreError: if a rank of another world or of another recipe is running.
    """
    run = state.directory.path
    if place.world == 1 and not (run / RANKS).is_dir():
        yield OneProcess()
        return
    same = must_be_same(state.recipe, state.prompts, state.pool, run, state.limit)
    _take_over(state, place, same)
    # The calls of other ranks that were killed belong to earlier runs.
    state.ledger = Ledger(run, state.journal, state.log.warning)
    leader = Leader(state, place.world, same)
    leader.offer()
    if place.world == 1:
        remove_calls(run)
    try:
        yield OneProcess() if place.world == 1 else leader
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        # An error of the disk must not hide this error.
        with suppress(StoreError):
            leader.offer(ended="stopped" if stopped else f"failed: {type(error).__name__}")
        raise
    remove_calls(run)
    leader.offer(ended="done")


def _take_over(state: RunState, place: Place, same: Mapping[str, str]) -> None:
    """Take over calls and scores of ranks that no longer run.

    Raises:
        StoreError: if one runs that does not belong to this run.
    """
    run = state.directory.path
    for rank, folder in rank_folders(run):
        refused = None
        for _ in range(_LOOKS):
            with taken_over(folder, Claim.of(place, same)) as running:
                if running is None:
                    _absorb_left(state, folder, keep=rank < place.world)
                    refused = None
                    break
                refused = _refused(run, rank, running, place, same)
                if refused is None:
                    break
            time.sleep(_PAUSE)
        if refused is not None:
            raise refused


def _absorb_left(state: RunState, folder: Path, *, keep: bool) -> None:
    """Take over calls and scores that a process left in the folder of a rank; ``keep`` its chunks for the next one."""
    failure_file(folder).unlink(missing_ok=True)
    journal = folder / JOURNAL
    if journal.is_file():
        # Opened once as its own process would: a commit that a kill cut off is undone.
        Journal(journal, (), state.log.warning, shared_memory=False).close()
        state.journal.absorb(journal)
        remove(journal)
    if (folder / SCORES).is_dir():
        state.scores.absorb(folder / SCORES)
        remove(folder / SCORES)
    if not keep:
        for path in folder.iterdir():
            if path.name not in (LOG, LOCK):
                remove(path)


def _refused(
    run: Path, rank: int, running: Claim, place: Place, same: Mapping[str, str]
) -> StoreError | None:
    """Return the error for a running rank that does not belong to this run; None if it does."""
    if running.world != place.world:
        return StoreError(
            f"{run}: rank {rank} of {running.world} is running in it ({running}), and this is a run of {place.world}; stop it, "
            f"start this process with --world {running.world}, or choose another --out"
        )
    if other := other_parts(running.same, same, in_progress=True):
        return StoreError(
            f"{run}: rank {rank} is running in it ({running}) with another {other}; stop it and start all ranks with one "
            "command, or choose another --out"
        )
    return None


class Leader:
    """Shares the chunks of stages: chunk ``i`` is that of rank ``i`` modulo the number of ranks."""

    def __init__(
        self,
        state: RunState,
        world: int,
        same: Mapping[str, str],
        waiting: Waiting | None = None,
    ) -> None:
        self._state = state
        self._world = world
        self._offer = Offer(secrets.token_hex(8), 0, world, same)
        self._waiting = waiting or Waiting(lambda text: state.log.info(f"rank 0 {text}"))
        self._told: set[int] = set()
        self._damage: Counter[str] = Counter()

    def offer(self, **values: Any) -> None:
        """Publish the next offer of this session; ``values`` are fields of it."""
        now = self._offer
        self._offer = replace(Offer(now.session, now.number + 1, now.world, now.same), **values)
        self._offer.write(self._state.directory.path)

    def processes(self, use: Use) -> int:
        """Return the number of ranks that share the chunks of a stage."""
        return 1 if alone(self._state.recipe, use) else self._world

    def chunks(self, step: Step[T]) -> Iterator[tuple[Sequence[T], Chunk[T]]]:
        """Yield every chunk in order, and wait for the chunks of other ranks.

        Raises:
            NfilterError: if another rank ended with an error that would come again.
        """
        run, total = step.run, step.run.before.chunk_count()
        reason = alone(self._state.recipe, run.use)
        if reason is not None:
            self._state.log.info(f"{run.label}: runs on rank 0 alone, because {reason}")
        if reason is not None or total < 2:
            yield from OneProcess().chunks(step)
            return
        pending = {index for index in range(total) if not run.after.has_chunk(index)}
        step.ctx.claims = self._share(step, sorted(pending))
        awaited = {index for index in pending if index % self._world}
        for index in range(total):
            if index % self._world and index in pending:
                continue
            before = run.before.chunk(index)
            yield before, step.done(index, before)
            yield from self._adopt(step, awaited)

        def arrived() -> list[tuple[Sequence[T], Chunk[T]]] | None:
            adopted = self._adopt(step, awaited)
            if not adopted:
                self._check_running(run.label, {index % self._world for index in awaited})
            return adopted or None

        while awaited:
            yield from self._waiting.until(arrived, lambda: self._missing(run.label, awaited))
        self._merge(step, [rank for rank in range(1, self._world) if rank < total])
        remove_calls(self._state.directory.path)

    def _share(self, step: Step[T], pending: Sequence[int]) -> SharedCalls:
        """Offer the chunks of a stage; return its calls. What is committed so far can be read by all ranks from now on."""
        run, label = self._state.directory.path, step.run.label
        self._state.journal.lend()
        remove_calls(run, keep=label)
        # After lend: a rank that sees a claim given up looks for the answer in the journal.
        calls = SharedCalls(
            run, label, Place(0, self._world), self._waiting, partial(self._check_running, label)
        )
        calls.resume(self._state.journal)
        self.offer(
            stage=step.run.label,
            before=step.run.before.directory.name,
            input=step.parts["input"],
            parts=part_digests(step.parts),
            pending=tuple(pending),
        )
        return calls

    def _of_rank(self, step: Step[T], rank: int) -> Artefact[T] | None:
        """Return what a rank has published of a stage; None if that is of other inputs."""
        folder = rank_folder(self._state.directory.path, rank)
        theirs = step.run.after.in_folder(folder / step.run.label)
        own = own_parts(step.parts, Place(rank, self._world))
        return theirs if theirs.has_parts(own) else None

    def _adopt(self, step: Step[T], awaited: set[int]) -> list[tuple[Sequence[T], Chunk[T]]]:
        """Publish the chunks that other ranks have done, and remove them from ``awaited``; return them before and after."""
        adopted: list[tuple[Sequence[T], Chunk[T]]] = []
        for rank in sorted({index % self._world for index in awaited}):
            theirs = self._of_rank(step, rank)
            mine = sorted(index for index in awaited if index % self._world == rank)
            with self._tolerant():
                for index in mine:
                    if theirs is None or not theirs.has_chunk(index):
                        continue
                    done = Chunk(theirs.chunk(index), list(theirs.decisions_of(index)))
                    before = step.run.before.chunk(index)
                    step.kind.join(before, done)
                    step.run.after.adopt_chunk(index, theirs)
                    awaited.remove(index)
                    adopted.append((before, done))
        return adopted

    @contextmanager
    def _tolerant(self) -> Iterator[None]:
        """Ignore damage in the folder of another rank, which may be replacing a file; raise it if it stays.

        Raises:
            DamageError: at the 20th look at the same damage.
        """
        try:
            yield
        except DamageError as error:
            self._damage[str(error)] += 1
            if self._damage[str(error)] >= _SAME:
                raise

    def _check_running(self, label: str, ranks: Collection[int]) -> None:
        """Report awaited ranks that ended with an error.

        Raises:
            NfilterError: if the error would come again.
        """
        for rank in sorted(ranks):
            failure = read_failure(rank_folder(self._state.directory.path, rank))
            if failure is None:
                self._told.discard(rank)
            elif failure["final"]:
                raise NfilterError(f"rank {rank}: {failure['error']}")
            elif rank not in self._told:
                self._told.add(rank)
                text = f"{label}: rank {rank} ended with an error, and this rank waits until it is started again: {failure['error']}"
                self._state.log.keep(text)
                self._state.log.reporter.warning(text)

    def _missing(self, label: str, awaited: set[int]) -> str:
        first = min(awaited)
        more = f" and for {len(awaited) - 1} more chunks" if len(awaited) > 1 else ""
        return f"chunk {first} of {label}, which rank {first % self._world} does{more}"

    def _merge(self, step: Step[T], ranks: Sequence[int]) -> None:
        """Wait until the other ranks have ended the stage, and take over their calls, scores and warnings."""
        state, label = self._state, step.run.label
        for rank in ranks:
            folder = rank_folder(state.directory.path, rank)
            summary = self._waiting.until(
                partial(self._ended, step, rank), partial("rank {} to end {}".format, rank, label)
            )
            state.journal.absorb(folder / JOURNAL, label)
            if (folder / SCORES).is_dir():
                state.scores.absorb(folder / SCORES)
            step.ctx.add_cut_texts(
                {name: CutTexts(**counted) for name, counted in summary["cut"].items()}
            )
            for text, times in summary["warned"]:
                state.log.warning(text)
                for _ in range(times - 1):
                    state.log.warned.add(label, text)

    def _ended(self, step: Step[T], rank: int) -> dict[str, Any] | None:
        """Return the summary of a rank that has ended the stage in this offer; None until then."""
        theirs = self._of_rank(step, rank)
        with self._tolerant():
            if theirs is not None and finished(theirs):
                summary = theirs.summary()
                if summary.get("offer") == self._offer.key:
                    return summary
        self._check_running(step.run.label, {rank})
        return None


def own_parts(parts: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """Return the parts that determine what one rank publishes of a stage: those of the stage, and its place."""
    return {**parts, "rank": [place.rank, place.world]}
