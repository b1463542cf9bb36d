"""Another rank than 0: it processes its chunks of the stages that rank 0 offers, in a folder of its own, until the run ends."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from nfilter.api.budget import Budget
from nfilter.api.calls import ModelRef
from nfilter.api.errors import (
    ContractError,
    DamageError,
    NfilterError,
    NoteError,
    RecipeError,
    StoreError,
)
from nfilter.api.stages import EMPTY_STATE, State
from nfilter.engine.error_attribution import attribute
from nfilter.engine.foreign_warnings import shown_once
from nfilter.engine.ingest import Limit
from nfilter.engine.lookup import prompts_of, site_of
from nfilter.engine.pipeline import NumberedStage, numbered, rows_for_tools, stage_parts
from nfilter.engine.plan_time import model_digest
from nfilter.engine.ranks.calls import SharedCalls
from nfilter.engine.ranks.division import must_be_same, other_parts
from nfilter.engine.ranks.leader import own_parts
from nfilter.engine.ranks.place import Place
from nfilter.engine.ranks.records import (
    JOURNAL,
    LOG,
    SCORES,
    WARNED,
    Claim,
    Offer,
    claimed,
    failure_file,
    rank_folder,
    write_failure,
)
from nfilter.engine.ranks.waiting import Waiting
from nfilter.engine.samples import SampleKind
from nfilter.engine.stages import StageKind, StageRun, Step, step_of
from nfilter.engine.state import RunState, only_in_fit
from nfilter.engine.tokens import TokenKind
from nfilter.models.pace import PACES, Pace
from nfilter.models.pool import ModelPool
from nfilter.progress import QuietReporter, Reporter, RunLog
from nfilter.recipe.model import Recipe
from nfilter.registry.loading import Plugins
from nfilter.store.artefacts import Artefact, differing, finished, part_digests
from nfilter.store.files import remove
from nfilter.store.journal import Journal
from nfilter.store.losses import ScoreCaches
from nfilter.store.run_directory import RunDirectory, refuse_other_kind, sweep
from nfilter.store.samples import open_samples
from nfilter.store.warnings import RunWarnings


@dataclass(frozen=True, slots=True)
class Followed:
    """What a rank did: the number of chunks that it processed, and of stages that it took part in."""

    chunks: int
    stages: int


def follow(
    recipe: Recipe,
    plugins: Plugins,
    out: Path,
    place: Place,
    *,
    limit: Limit = None,
    reporter: Reporter | None = None,
    lenders: Sequence[Path] = (),
    waiting: Waiting | None = None,
) -> Followed:
    """Take part in the run of ``recipe`` in ``out`` until rank 0 ends it.

    Args:
        recipe: The recipe, the same in all ranks.
        plugins: The installed plugins.
        out: The run directory, on a file system that all ranks share.
        place: The place of this process; its rank is not 0.
        limit: The number of rows that are read, the same in all ranks.
        reporter: Shows progress and messages.
        lenders: Journals of finished runs whose answers are reused.
        waiting: Waits for rank 0.

    Raises:
        StoreError: if a run of other ranks or of another recipe is in progress in ``out``.
        NfilterError: if rank 0 ends with an error, or a stage does.
    """
    refuse_other_kind(out, seeds=False)
    home = rank_folder(out, place.rank)
    prompts = prompts_of(recipe, plugins)
    # No call of this rank costs money: those that would are made by rank 0.
    site = replace(site_of(recipe, plugins, home), budget=Budget(0.0))
    pool = ModelPool(recipe, site)
    log = RunLog(reporter or QuietReporter())
    waiting = waiting or Waiting(lambda text: log.info(f"rank {place.rank} {text}"))
    try:
        same = must_be_same(recipe, prompts, pool, out, limit)
        with claimed(home, Claim.of(place, same), waiting):
            sweep(home)
            failure_file(home).unlink(missing_ok=True)
            log = RunLog(log.reporter, home / LOG, RunWarnings(home / WARNED))
            waiting = replace(waiting, say=lambda text: log.info(f"rank {place.rank} {text}"))
            journal = Journal(
                home / JOURNAL, [out / JOURNAL, *lenders], log.warning, shared_memory=False
            )
            state = RunState(
                recipe, plugins, RunDirectory(out), pool, journal, prompts, log, limit, place.rank
            )
            worker = Worker(state, place, same, waiting)
            try:
                with (
                    site.interrupt.installed(log.warning),
                    shown_once(log.reporter.warning, log.keep),
                ):
                    done = worker.work()
            except Exception as error:
                attributed = isinstance(error, NfilterError) and not isinstance(error, NoteError)
                fault = error if attributed else attribute(error, plugins, state.at, out)
                log.failed(fault or error, error if fault is not error else None)
                final = isinstance(fault, ContractError | RecipeError)
                write_failure(home, fault or error, final=final)
                if fault is None or fault is error:
                    raise
                raise fault from error
            finally:
                journal.close()
            _tidy(home, keep=())
    finally:
        pool.close()
    return done


class EndedError(NfilterError):
    """Rank 0 ended without finishing the run."""


class Worker:
    """The loop of one rank."""

    def __init__(
        self, state: RunState, place: Place, same: Mapping[str, str], waiting: Waiting
    ) -> None:
        self._state = state
        self._place = place
        self._same = same
        self._waiting = waiting
        self._out = state.directory.path
        self._home = rank_folder(self._out, place.rank)
        self._last: Offer | None = None
        self._joined = ""  # the session of rank 0 that this rank has worked with
        left = Offer.read(self._out)
        # The session of a rank 0 that had ended before this rank started.
        self._earlier = left.session if left is not None and left.ended is not None else ""
        self._done = Followed(0, 0)

    def work(self) -> Followed:
        """Process the chunks of all offers until the run ends.

        Raises:
            EndedError: if rank 0 ends without finishing the run.
        """
        while True:
            offer = self._waiting.until(self._next, self._awaited)
            self._last = offer
            if offer.ended is not None:
                return self._done
            self._joined = offer.session
            if offer.stage is not None:
                self._stage(offer, offer.stage)

    def _awaited(self) -> str:
        last = self._last
        if last is None or last.session != self._joined:
            return "rank 0 to start"
        return (
            f"rank 0, which goes on after {last.stage}" if last.stage else "rank 0 to share a stage"
        )

    def _next(self) -> Offer | None:
        """Return an offer that is new and for this rank; None if there is none yet.

        Raises:
            StoreError: if a run is in progress to which this rank does not belong.
            EndedError: if rank 0 ended without finishing the run.
        """
        offer = Offer.read(self._out)
        if offer is None or (self._last is not None and offer.key == self._last.key):
            return None
        if not self._fits(offer):
            return None
        if offer.ended not in (None, "done"):
            if offer.session == self._earlier != self._joined:
                return None  # of an earlier run
            raise self._without_rank_0(offer)
        return offer

    def _without_rank_0(self, offer: Offer) -> EndedError:
        return EndedError(
            f"rank 0 {offer.ended}, see {self._out / LOG}; start all ranks again to resume"
        )

    def _check_running(self, ranks: Collection[int]) -> None:
        """Raise an error if the run has ended, so that no other rank answers a call of this stage."""
        del ranks
        offer = Offer.read(self._out)
        if offer is not None and offer.ended is not None:
            raise self._without_rank_0(offer)

    def _fits(self, offer: Offer) -> bool:
        """Whether the offer is for this rank; False for one that an earlier run left."""
        if offer.session == self._joined:
            return True
        running = offer.ended is None
        other = other_parts(offer.same, self._same, in_progress=running)
        if offer.world == self._place.world and not other:
            return True
        if not running or not self._state.directory.is_held():
            return False
        if offer.world != self._place.world:
            raise StoreError(
                f"{self._out}: a run of {offer.world} ranks is in progress, and this is rank {self._place.rank} of "
                f"{self._place.world}; start it with --world {offer.world}, wait for the run, or choose another --out"
            )
        raise StoreError(
            f"{self._out}: a run with another {other} is in progress; start all ranks with one command and one "
            "installation, wait for the run, or choose another --out"
        )

    def _stage(self, offer: Offer, label: str) -> None:
        """Process the chunks of this rank that are pending, and report the stage as ended."""
        state = self._state
        _tidy(self._home, keep=(label,))
        each, run, kind_of, more = _run_of(state, offer, label)
        parts = {**stage_parts(state, each, offer.input), **more}
        if other := differing(offer.parts or {}, part_digests(parts)):
            raise StoreError(
                f"{label}: rank {self._place.rank} has another {other} than rank 0; install the same versions for all ranks, and "
                "start them with one command"
            )
        mine = run.after.in_folder(self._home / label)
        needed = [index for index in offer.pending if index % self._place.world == self._place.rank]
        if not _begun_before(mine, parts, self._place, needed):
            state.journal.forget([label])
            state.log.warned.restart(label)
        state.scores = ScoreCaches(
            self._home / SCORES, state.log.warning, lender=self._out / SCORES
        )
        ctx = state.context(
            label,
            each.stream,
            stage_rows=rows_for_tools(run.before),
            pace=self._new_pace(each, run),
            publish=partial(_unpublished, label, self._place.rank),
            code=each.use.item.code,
        )
        step: Step[Any] = step_of(
            replace(run, after=mine), kind_of, ctx, parts, partial(_state_of, run.after)
        )
        ctx.take_cut_texts()
        ctx.claims = SharedCalls(self._out, label, self._place, self._waiting, self._check_running)
        # Also without a chunk to do: in an earlier world this rank may have claimed calls that now are needed elsewhere.
        ctx.claims.resume(state.journal)
        with ctx.progress(len(needed), f"{label}: chunks") as bar:
            for index in needed:
                now = Offer.read(self._out)
                if now is not None and now.key != offer.key:
                    return
                step.done(index, run.before.chunk(index))
                bar.advance()
        warned = [
            [row["text"], row["times"]] for row in state.log.warned.rows() if row["stage"] == label
        ]
        cut = {name: asdict(counted) for name, counted in ctx.take_cut_texts().items()}
        mine.finish({"offer": offer.key, "warned": warned, "cut": cut})
        self._done = Followed(self._done.chunks + len(needed), self._done.stages + bool(needed))

    def _new_pace(self, each: NumberedStage, run: StageRun[Any]) -> Pace:
        summary = run.before.summary()
        rows = int(summary.get("samples") or summary.get("read") or 0)
        asks = each.use.item.cls.contract(each.use.config).calls
        return Pace(
            each.label,
            -(-rows // self._place.world),
            asks,
            self._state.log,
            self._home / PACES,
            identify=partial(model_digest, self._state.recipe),
        )


def _run_of(
    state: RunState, offer: Offer, label: str
) -> tuple[NumberedStage, StageRun[Any], Any, Mapping[str, Any]]:
    """Return the stage of an offer, its artefacts, what makes its kind, and the parts of its own kind."""
    recipe, directory = state.recipe, state.directory
    for each in numbered(recipe.samples, 1):
        if each.label == label:
            before = open_samples(directory.path / offer.before)
            after = directory.stage(each.number, each.use.name)
            return each, StageRun(label, each.use, before, after), SampleKind, {}
    first = len(recipe.samples) + 1
    tokens = directory.encoded(first)
    for bit, each in enumerate(numbered(recipe.tokens, first + 1)):
        out = directory.token_stage(each.number, each.use.name, tokens)
        if each.label == label:
            run = StageRun(label, each.use, tokens, out)
            return each, run, partial(TokenKind, bit=bit), {"reason bit": bit}
        tokens = out
    raise StoreError(
        f"{label}: rank 0 shares this stage, and the recipe of this rank has none of that name"
    )


def _begun_before(
    mine: Artefact[Any], parts: Mapping[str, Any], place: Place, needed: Sequence[int]
) -> bool:
    """Prepare the folder of a rank for a stage; return whether an earlier process of this rank, of any world, began the stage.

    Its calls then belong to the stage, also those for chunks that rank 0 has published.
    """
    before, own = mine.begun_with(), own_parts(parts, place)
    mine.begin(own)
    if finished(mine) and not all(map(mine.has_chunk, needed)):
        # No chunk is added to an artefact that was finished.
        mine.remove()
        mine.begin(own)
    return {**before, "rank": ""} == {**part_digests(parts), "rank": ""}


def _state_of(after: Artefact[Any], kind: StageKind[Any], stage: Any) -> State:
    """Return the state that rank 0 published."""
    if kind.fit(stage) is None:
        return EMPTY_STATE
    state = after.read_state()
    if state is None:
        raise DamageError(
            f"{after.directory}: its state is missing; start all ranks again",
            after.directory,
            "is missing",
        )
    return state


def _unpublished(label: str, rank: int, ref: ModelRef) -> None:
    del ref
    raise only_in_fit(label, "publishes a model", rank)


def _tidy(home: Path, keep: Sequence[str]) -> None:
    """Remove the chunks of stages but ``keep``; at the end of a run, all that rank 0 has taken over."""
    for path in _left(home, whole=not keep):
        if path.name not in keep:
            remove(path)


def _left(home: Path, *, whole: bool) -> Iterator[Path]:
    yield from home.glob("[0-9][0-9]-*")
    if whole:
        yield from (home / name for name in (JOURNAL, SCORES, WARNED, PACES, "state"))
