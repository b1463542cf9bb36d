"""One run from source to figures. It orders what the recipe ordered, and knows no method by name."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from nfilter.api.errors import NfilterError, NoteError, NothingLeftError
from nfilter.api.events import RunFinished, RunStarted, StageFinished
from nfilter.api.stages import Contract, TokenLoss
from nfilter.api.types import ModelRef, Sample, TokenSample
from nfilter.engine import arms
from nfilter.engine.error_attribution import blame
from nfilter.engine.foreign_warnings import shown_once
from nfilter.engine.ingest import (
    Ingested,
    ingest,
    source_parts,
    summary,
)
from nfilter.engine.ledger import Ledger, open_journal
from nfilter.engine.lock import answer_prompts, write_lock
from nfilter.engine.lookup import prompts_of, site_of
from nfilter.engine.plan_time import described
from nfilter.engine.rows import CLEANED, DROPPED, write_rows
from nfilter.engine.samples import StageRun, live, run_stage, tell
from nfilter.engine.source_warnings import lasting, lost, told
from nfilter.engine.tokenizers import check_tokenizers
from nfilter.engine.versions import versions
from nfilter.engine.whereabouts import whereabouts
from nfilter.metrics.arms import ArmResult, arm_figures, comparisons
from nfilter.metrics.samples import judge
from nfilter.metrics.tokens import judge_tokens
from nfilter.models.context import RunContext
from nfilter.models.pace import PACES, Pace
from nfilter.models.pool import ModelPool
from nfilter.progress import QuietReporter, Reporter, RunLog
from nfilter.recipe.check import model_facts
from nfilter.recipe.model import Arm, Recipe, Use, model_needs
from nfilter.recipe.prompts import Prompts
from nfilter.registry.loading import Plugins
from nfilter.registry.provenance import code_of, core_code
from nfilter.report.html import write_report
from nfilter.report.reading import MANIFEST
from nfilter.store.files import remove
from nfilter.store.journal import Journal
from nfilter.store.losses import ScoreBooks
from nfilter.store.run_directory import (
    Artefact,
    RunDirectory,
    digest,
    fingerprint_of,
    keep_apart,
    write_json,
    write_sealed,
)
from nfilter.store.seals import sealed
from nfilter.store.truth import truth_of
from nfilter.store.warnings import FILE as WARNINGS
from nfilter.store.warnings import Warned


@dataclass(frozen=True, slots=True)
class RunResult:
    """Where a run wrote, and what metrics.json holds."""

    directory: Path
    metrics: dict[str, Any]
    seconds: float


@dataclass
class _Run:
    """The parts of one run that its steps share."""

    recipe: Recipe
    plugins: Plugins
    directory: RunDirectory
    pool: ModelPool
    journal: Journal
    prompts: Prompts
    log: RunLog
    limit: int | None
    published: dict[str, ModelRef] = field(default_factory=dict)
    finished: list[StageFinished] = field(default_factory=list)
    fingerprints: dict[str, str] = field(default_factory=dict)
    lints: dict[str, dict[str, Any]] = field(default_factory=dict)
    trainings: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: int = 0
    scores: ScoreBooks = field(init=False)
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.directory.path, self.journal, self.log.warning)
        self.scores = ScoreBooks(self.directory.path / "scores", self.log.warning)

    @property
    def at(self) -> str:
        """What is at work."""
        return self.log.at

    @at.setter
    def at(self, stage: str) -> None:
        self.log.at = stage

    def context(
        self,
        stage: str,
        stream: str | None = None,
        loss: TokenLoss | None = None,
        rows: int | None = None,
        pace: Pace | None = None,
    ) -> RunContext:
        """The context of one stage of this run; ``stream`` names its random numbers, else ``stage`` does."""
        self.at = stage
        return RunContext(
            self.recipe,
            stage,
            self.pool,
            self.journal,
            self.prompts,
            self.log,
            stream=stream,
            trainer=partial(self.train_for, stage) if self.recipe.train is not None else None,
            publish=self.published.__setitem__,
            scores=self.scores,
            loss=loss,
            place=whereabouts(self.recipe, stage),
            rows=rows,
            pace=pace,
        )

    def train_for(
        self, stage: str, samples: Sequence[TokenSample], start: ModelRef | None
    ) -> ModelRef:
        """Train a model that a stage asked for, kept under models/."""
        assert self.recipe.train is not None
        # A folder a model: what a stage trains later starts from what it trained before.
        name = digest(arms.tokens_digest(samples), start.digest if start else "")[:16]
        out = self.directory.path / "models" / f"{stage}-{name}"
        # A reference learns with the plain loss: an online one may read the scores that it is trained for.
        use = replace(self.recipe.train, loss=None)
        done = arms.trained(use, samples, self.context(f"{stage}.train"), out, start)
        self.at = stage
        assert done.ref is not None
        return done.ref


def run(
    recipe: Recipe,
    plugins: Plugins,
    out: Path,
    *,
    limit: int | None = None,
    reporter: Reporter | None = None,
    pool: ModelPool | None = None,
    lenders: Sequence[Path] = (),
) -> RunResult:
    """Run a recipe into the directory ``out``; what an earlier run of the same recipe left there is used.

    ``pool`` shares models between runs, ``lenders`` are journals whose answers are used before a model is asked.

    Raises:
        NfilterError: typed, with what was wrong and what to do about it.
    """
    start = time.monotonic()
    keep_apart(out, seeds=False)
    directory = RunDirectory(out)
    own_pool = pool is None
    models = pool or ModelPool(recipe, site_of(recipe, plugins, out))
    with directory.held():
        log = RunLog(reporter or QuietReporter(), out / "run.log", Warned(out / WARNINGS))
        log.warned.forget(lambda stage: not lasting(stage))
        journal = open_journal(out, lenders, log.warning)
        state = _Run(
            recipe, plugins, directory, models, journal, prompts_of(recipe, plugins), log, limit
        )
        if own_pool:
            models.paid_before(journal.usd())
        try:
            plugins.announce(
                "nfilter_run_started", RunStarted(recipe.name, out, recipe.seed), log.warning
            )
            with state.ledger.kept():
                with (
                    models.site.drain.installed(log.warning),
                    shown_once(log.reporter.warning, log.keep),
                ):
                    metrics = _steps(state)
                seconds = time.monotonic() - start
                _publish(state, metrics)
            plugins.announce(
                "nfilter_run_finished", RunFinished(recipe.name, out, metrics), log.warning
            )
        except Exception as error:
            whole = isinstance(error, NfilterError) and not isinstance(error, NoteError)
            fault = error if whole else blame(error, plugins, state.at, out)
            log.failed(fault or error, error if fault is not error else None)
            if fault is None or fault is error:
                raise
            raise fault from error
        finally:
            journal.close()
            if own_pool:
                models.close()
    return RunResult(out, metrics, seconds)


def _steps(state: _Run) -> dict[str, Any]:
    write_lock(state.directory.path / "recipe.lock.yaml", state.recipe, state.prompts, state.pool)
    for fact in model_facts(state.recipe, state.pool.site):
        state.log.info(fact)
    check_tokenizers(state.recipe, state.pool, state.log.warning)
    source = state.directory.stage(0, "source")
    ingested = _ingest(state, source)
    state.rows = ingested.read
    last = _sample_stages(state, source)
    truth = truth_of(source)
    # What remains is published before anything is trained on it, so that an arm that fails leaves the record.
    cleaned = _encoded(state, "cleaned", list(live(last))) if state.recipe.encodes else None
    if cleaned is None:
        # Those of an earlier recipe here are of other rows.
        remove(state.directory.path / "tokens")
    counts = write_rows(
        state.directory, state.recipe, last, dict(cleaned.dropped) if cleaned else {}
    )
    metrics: dict[str, Any] = {
        "name": state.recipe.name,
        "seeds": [state.recipe.seed],
        "samples": {
            "read": ingested.read,
            "unreadable": ingested.unreadable,
            **counts,
            **lost(ingested),
        },
    }
    if cleaned is not None:
        out, seed = state.directory.path, state.recipe.seed
        figures = cleaned.figures if state.recipe.tokens else {}
        figures = {
            **figures,
            **judge_tokens(state.plugins, out, source, last, seed, state.log.warning),
        }
        if figures:
            metrics["tokens"] = figures
    if reports := _reports(state):
        metrics["stages"] = reports
    metrics.update(
        judge(
            state.recipe,
            state.plugins,
            state.context("metrics"),
            source,
            last,
            truth,
            state.journal,
        )
    )
    try:
        results = _arms(state, source, cleaned, truth)
    except NothingLeftError:
        # Why nothing is left is what a person wants to see then.
        _publish(state, metrics)
        raise
    if state.trainings:
        metrics["training"] = state.trainings
    if results:
        metrics["arms"] = {name: arm_figures(result) for name, result in results.items()}
        compared = comparisons(results)
        metrics["comparisons"] = compared
        metrics.update({key: compared[key] for key in ("recovered", "recovered_vanilla", "gain")})
    return metrics


def _reports(state: _Run) -> dict[str, Any]:
    """What each sample stage found out about the whole dataset, under its number and name."""
    found = {}
    for number, use in enumerate(state.recipe.samples, start=1):
        artefact = state.directory.stage(number, use.name)
        report = artefact.summary().get("report")
        if isinstance(report, Mapping):
            found[artefact.directory.name] = report
    return found


def _publish(state: _Run, metrics: dict[str, Any]) -> None:
    out = state.directory.path
    if state.lints:
        metrics["encode"] = state.lints
    usd = state.journal.usd()
    if usd or state.recipe.budget is not None:
        metrics["usd"] = usd
    if outcomes := state.journal.outcomes():
        metrics["failed_calls"] = outcomes
    if warned := state.log.warned.told():
        metrics["warnings"] = warned
    write_json(out / "metrics.json", metrics)
    _manifest(state, state.ledger.note("done"))
    write_report(out, metrics)


def _ingest(state: _Run, source: Artefact) -> Ingested:
    recipe = state.recipe
    state.at = "source"
    state.log.warned.restart(state.at)
    parts = source_parts(recipe, state.limit)
    state.fingerprints["source"] = fingerprint_of(parts)
    begun = source.begin(parts)
    tell("source", begun, state.log)
    if begun.status == "reused":
        return told(state.log, state.directory.path, summary(source))
    done = ingest(recipe.source, recipe, source, state.directory.path, state.limit)
    unreadable = f", {done.unreadable} unreadable (quarantine.jsonl)" if done.unreadable else ""
    state.log.info(f"source: {done.read} {'row' if done.read == 1 else 'rows'}{unreadable}")
    return told(state.log, state.directory.path, done)


def stage_parts(state: _Run, use: Use, before: str) -> dict[str, Any]:
    """What decides what a stage publishes, by name; ``before`` is the fingerprint of its input."""
    contract: Contract = use.item.cls.contract(use.config)
    needs = (*model_needs(use.config), *contract.needs, *model_needs(state.recipe.answer))
    names = {need.model for need in needs}
    models = {f"model {name}": _model(state.pool.backend(name)) for name in sorted(names)}
    named = {*contract.prompts, *answer_prompts(state.recipe)}
    prompts = {f"prompt {name}": state.prompts.get(name).digest for name in sorted(named)}
    return {
        "input": before,
        "config": use.dump(),
        "plugin": use.item.origin,
        "plugin code": use.item.code,
        "nfilter's code": core_code(),
        **prompts,
        **models,
        "seed": state.recipe.seed,
        "answer": state.recipe.answer.model_dump(mode="json"),
        "thoughts": {name: state.recipe.thoughts(name).marks for name in sorted(names)},
    }


def _model(backend: Any) -> list[str]:
    return [backend.fingerprint(), code_of(type(backend))]


def _sample_stages(state: _Run, source: Artefact) -> Artefact:
    before, fingerprint = source, state.fingerprints["source"]
    for gone in state.directory.discard_after(len(state.recipe.samples)):
        state.log.info(f"{gone}: no longer in the recipe; removed")
    labels = {
        f"{number:02d}-{use.name}" for number, use in enumerate(state.recipe.samples, start=1)
    }
    # What a stage that is gone once asked of models is no cost of this recipe.
    made = [name for name in state.journal.stages() if name[:2].isdigit()]
    state.journal.forget([name for name in made if name.removesuffix(".train") not in labels])
    state.log.warned.forget(lambda stage: stage[:2].isdigit() and stage not in labels)
    names = [use.name for use in state.recipe.samples]
    for number, use in enumerate(state.recipe.samples, start=1):
        label = f"{number:02d}-{use.name}"
        # Random numbers go by name, so that a stage put in before this one does not redraw it.
        stream = f"{use.name}#{names[: number - 1].count(use.name)}"
        for stale in state.directory.path.glob(f"{number:02d}-*"):
            if stale.name != label:
                state.log.info(f"{stale.name}: no longer in the recipe; removed")
                Artefact(stale).remove()
        parts = stage_parts(state, use, fingerprint)
        fingerprint = state.fingerprints[label] = fingerprint_of(parts)
        after = state.directory.stage(number, use.name)
        if state.journal.lacks(label) and after.directory.exists():
            state.log.warning(f"{label}: the journal lost some of its calls; it runs again")
            after.remove()
        if not after.of(fingerprint):
            state.journal.forget([label])
            state.log.warned.restart(label)
        asks = use.item.cls.contract(use.config).calls
        kept, of = state.directory.path / PACES, partial(described, state.recipe)
        pace = Pace(label, state.rows, asks, state.log, kept, described=of)
        ctx = state.context(label, stream, pace=pace)
        done = run_stage(StageRun(label, use, before, after), ctx, parts)
        if not done.reused:
            ctx.finish()
        state.finished.append(done)
        again = " (from an earlier run)" if done.reused else f" in {done.seconds:.1f} s"
        state.log.info(
            f"{label}: {done.kept} kept, {done.dropped} dropped so far, {done.changed} relabelled{again}"
        )
        state.plugins.announce("nfilter_stage_finished", done, state.log.warning)
        before = after
    return before


def _encoded(state: _Run, arm: Arm, samples: list[Sample]) -> arms.Encoded:
    ctx = state.context(f"train.{arm}")
    encoded = arms.prepare(state.recipe, arm, samples, ctx, state.context, state.directory.path)
    state.lints[arm] = encoded.lint
    return encoded


def _arms(
    state: _Run, source: Artefact, cleaned: arms.Encoded | None, truth: Mapping[str, str]
) -> dict[str, ArmResult]:
    recipe = state.recipe
    results: dict[str, ArmResult] = {}
    test = arms.read_test(recipe)
    for arm in recipe.arms:
        trained = None
        if arm == "cleaned" and cleaned is not None:
            trained = _trained(state, arm, cleaned)
        elif arm != "vanilla":
            trained = _trained(state, arm, _encoded(state, arm, _arm_samples(arm, source, truth)))
        if recipe.evaluate is not None:
            ctx = state.context(f"evaluate.{arm}")
            state.journal.forget([ctx.stage])
            results[arm] = arms.evaluate(
                recipe, arm, trained, test, ctx, state.prompts, state.directory.path
            )
            state.log.info(
                f"arm {arm}: accuracy {results[arm].accuracy:.3f} on {len(results[arm].right)} test rows"
            )
    return results


def _trained(state: _Run, arm: Arm, encoded: arms.Encoded) -> arms.Trained:
    if not encoded.samples:
        finished = state.finished if arm == "cleaned" else []
        raise NothingLeftError(arms.nothing_left(arm, encoded, finished, state.directory.path))
    if state.recipe.adopt is not None and arm == "cleaned":
        return arms.Trained(_adopted(state), {})
    use = state.recipe.train.loss if state.recipe.train else None
    loss: TokenLoss | None = use.item.cls(use.config) if use else None
    ctx = state.context(f"train.{arm}", loss=loss, rows=state.rows)
    done = arms.train(state.recipe, arm, encoded.samples, ctx, state.directory.path)
    state.trainings[arm] = done.figures
    return done


def _adopted(state: _Run) -> ModelRef:
    stage = state.recipe.adopt.stage if state.recipe.adopt else ""
    ref = state.published.get(stage)
    if ref is None:
        raise NfilterError(
            f"train: no stage {stage!r} published a model; it is one of: {sorted(state.published)}"
        )
    # Where the arm's adapter always is, whoever trained it.
    out = state.directory.path / "adapters" / "cleaned"
    part = out.with_name(".cleaned.part")
    for folder in (part, out):
        remove(folder)
    shutil.copytree(ref.path, part)
    part.rename(out)
    return replace(ref, path=str(out))


def _arm_samples(arm: Arm, source: Artefact, truth: Mapping[str, str]) -> list[Sample]:
    if arm == "raw":
        return list(live(source))
    return [
        sample.relabel(truth[sample.id], "the truth")
        for sample in live(source)
        if sample.id in truth
    ]


def _files(state: _Run) -> list[str]:
    """The files in the run's own folder that are read again."""
    evaluated = [f"evaluation/{arm}.jsonl" for arm in state.recipe.arms if state.recipe.evaluate]
    tokens = ["tokens/index.json"] if state.recipe.encodes else []
    return ["recipe.lock.yaml", CLEANED, DROPPED, "metrics.json", *evaluated, *tokens]


def _manifest(state: _Run, runs: Sequence[Mapping[str, Any]]) -> None:
    out = state.directory.path
    write_sealed(
        out / MANIFEST,
        {
            "files": {name: sealed(out / name) for name in _files(state) if (out / name).is_file()},
            "name": state.recipe.name,
            "seed": state.recipe.seed,
            "versions": versions(),
            "seconds": runs[-1]["seconds"],
            "runs": runs,
            "fingerprints": state.fingerprints,
            "calls": state.journal.usage(),
            "stages": [
                {
                    "stage": done.stage, "kept": done.kept, "dropped": done.dropped,
                    "relabelled": done.changed, "seconds": done.seconds, "reused": done.reused,
                    "made_in_seconds": Artefact(out / done.stage).summary()["seconds"],
                }
                for done in state.finished
            ],
        },
    )  # fmt: skip
