"""One run from source to figures, in the order of the recipe."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nfilter.api.calls import ModelRef
from nfilter.api.errors import NfilterError, NoteError, NothingLeftError
from nfilter.api.events import RunFinished, RunStarted, StageFinished
from nfilter.api.stages import TokenLoss
from nfilter.api.types import Sample
from nfilter.engine import arms
from nfilter.engine.encoding import cleaned_arm
from nfilter.engine.error_attribution import attribute
from nfilter.engine.foreign_warnings import shown_once
from nfilter.engine.ingest import Ingested, Limit, ingest, source_parts, summary
from nfilter.engine.ledger import open_journal
from nfilter.engine.lock import write_lock
from nfilter.engine.lookup import prompts_of, site_of
from nfilter.engine.pipeline import discard_others, sample_stages
from nfilter.engine.ranks.leader import leading
from nfilter.engine.ranks.place import ALL, Place
from nfilter.engine.reviewed import apply_reviews
from nfilter.engine.rows import CLEANED, DROPPED, write_rows
from nfilter.engine.samples import live
from nfilter.engine.source_warnings import keeps_warnings, not_carried_figures, warn_of_rows
from nfilter.engine.stages import log_begun
from nfilter.engine.state import RunState
from nfilter.engine.tokenizers import check_tokenizers
from nfilter.engine.versions import versions
from nfilter.metrics.arms import ArmResult, arm_figures, comparisons
from nfilter.metrics.samples import judge
from nfilter.metrics.tokens import judge_tokens
from nfilter.models.pool import ModelPool
from nfilter.progress import QuietReporter, Reporter, RunLog, bytes_on
from nfilter.recipe.check_models import model_facts
from nfilter.recipe.fetching import fetch_all
from nfilter.recipe.file_hints import not_loaded
from nfilter.recipe.model import Recipe
from nfilter.recipe.sections import Arm
from nfilter.registry.loading import Plugins
from nfilter.report.html import write_report
from nfilter.report.reading import LOCK, MANIFEST
from nfilter.store.artefacts import Artefact, fingerprint_of
from nfilter.store.begun_calls import recording_begun
from nfilter.store.files import publishing_folder, remove, write_json, write_sealed
from nfilter.store.run_directory import RunDirectory, refuse_other_kind
from nfilter.store.samples import open_samples
from nfilter.store.seals import sealed
from nfilter.store.truth import truth_of
from nfilter.store.warnings import FILE as WARNINGS
from nfilter.store.warnings import RunWarnings


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run's directory, the content of its metrics.json, and its time in seconds."""

    directory: Path
    metrics: dict[str, Any]
    seconds: float


def run(
    recipe: Recipe,
    plugins: Plugins,
    out: Path,
    *,
    limit: Limit = None,
    reporter: Reporter | None = None,
    pool: ModelPool | None = None,
    lenders: Sequence[Path] = (),
    place: Place = ALL,
) -> RunResult:
    """Run a recipe into the directory ``out``; results of an earlier run of the same recipe are reused.

    Args:
        recipe: The recipe.
        plugins: The installed plugins.
        out: The run directory.
        limit: The number of rows that are read; None reads all.
        reporter: Shows progress and messages; None shows nothing.
        pool: Models that several runs share; None builds them for this run.
        lenders: Journals of other runs; their answers are reused instead of calling a model.
        place: Rank 0 among the ranks that share the chunks of stages; by default there is no other.

    Raises:
        NfilterError: a subclass, with the error and its remedy.
    """
    start = time.monotonic()
    refuse_other_kind(out, seeds=False)
    fetch_all(recipe, bytes_on(lambda: reporter or QuietReporter()))
    directory = RunDirectory(out)
    own_pool = pool is None
    models = pool or ModelPool(recipe, site_of(recipe, plugins, out))
    with directory.held():
        log = RunLog(reporter or QuietReporter(), out / "run.log", RunWarnings(out / WARNINGS))
        log.warned.forget(lambda stage: not keeps_warnings(stage))
        journal = open_journal(out, lenders, log.warning)
        state = RunState(
            recipe, plugins, directory, models, journal, prompts_of(recipe, plugins), log, limit
        )
        if own_pool:
            models.paid_before(journal.usd())
        try:
            plugins.announce(
                "nfilter_run_started", RunStarted(recipe.name, out, recipe.seed), log.warning
            )
            with (
                leading(state, place) as state.division,
                state.ledger.recorded(),
                recording_begun(out, journal, models.site.budget),
            ):
                with (
                    models.site.interrupt.installed(log.warning),
                    shown_once(log.reporter.warning, log.keep),
                ):
                    metrics = _steps(state)
                seconds = time.monotonic() - start
                _publish(state, metrics)
            plugins.announce(
                "nfilter_run_finished", RunFinished(recipe.name, out, metrics), log.warning
            )
        except Exception as error:
            attributed = isinstance(error, NfilterError) and not isinstance(error, NoteError)
            fault = error if attributed else attribute(error, plugins, state.at, out)
            log.failed(fault or error, error if fault is not error else None)
            if fault is None or fault is error:
                raise
            raise fault from error
        finally:
            journal.close()
            if own_pool:
                models.close()
    return RunResult(out, metrics, seconds)


def _steps(state: RunState) -> dict[str, Any]:
    lock = state.directory.path / LOCK
    for sentence in not_loaded([lock], state.plugins.files):
        state.log.info(sentence)
    write_lock(lock, state.recipe, state.prompts, state.pool)
    for fact in model_facts(state.recipe, state.pool.site):
        state.log.info(fact)
    check_tokenizers(state.recipe, state.pool, state.log.warning)
    source = state.directory.stage(0, "source")
    ingested = _ingest(state, source)
    state.rows = ingested.read
    first = apply_reviews(state, source)
    discard_others(state)
    last = sample_stages(state, first)
    truth = truth_of(source)
    # Published before training, so that the files exist if an arm fails.
    cleaned = cleaned_arm(state, last) if state.recipe.encodes else None
    if cleaned is None:
        # The tokens of an earlier recipe have other rows.
        remove(state.directory.path / "tokens")
    else:
        state.lints["cleaned"] = cleaned.lint
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
            **not_carried_figures(ingested),
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
        # The report shows why nothing is left.
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


def _reports(state: RunState) -> dict[str, Any]:
    """The report of each sample stage about the whole dataset, by its number and name."""
    reports = {}
    for number, use in enumerate(state.recipe.samples, start=1):
        artefact = state.directory.stage(number, use.name)
        report = artefact.summary().get("report")
        if isinstance(report, Mapping):
            reports[artefact.directory.name] = report
    return reports


def _publish(state: RunState, metrics: dict[str, Any]) -> None:
    out = state.directory.path
    if state.lints:
        metrics["encode"] = state.lints
    usd = state.journal.usd()
    if usd or state.recipe.budget is not None:
        metrics["usd"] = usd
    if outcomes := state.journal.outcomes():
        metrics["failed_calls"] = outcomes
    if warned := state.log.warned.rows():
        metrics["warnings"] = warned
    write_json(out / "metrics.json", metrics)
    _manifest(state, state.ledger.note("done"))
    write_report(out, metrics)


def _ingest(state: RunState, source: Artefact[Sample]) -> Ingested:
    recipe = state.recipe
    state.at = "source"
    state.log.warned.restart(state.at)
    parts = source_parts(recipe, state.limit)
    state.fingerprints["source"] = fingerprint_of(parts)
    begun = source.begin(parts)
    log_begun("source", begun, state.log)
    if begun.status == "reused":
        return warn_of_rows(state.log, state.directory.path, summary(source))
    done = ingest(recipe.source, recipe, source, state.directory.path, state.limit)
    unreadable = f", {done.unreadable} unreadable (quarantine.jsonl)" if done.unreadable else ""
    state.log.info(f"source: {done.read} {'row' if done.read == 1 else 'rows'}{unreadable}")
    return warn_of_rows(state.log, state.directory.path, done)


def _encoded(state: RunState, arm: Arm, samples: list[Sample]) -> arms.Encoded:
    encoded = arms.encode(state.recipe, samples, state.context(f"train.{arm}"), f"arm {arm}")
    state.lints[arm] = encoded.lint
    return encoded


def _arms(
    state: RunState,
    source: Artefact[Sample],
    cleaned: arms.Encoded | None,
    truth: Mapping[str, str],
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
            began = time.monotonic()
            results[arm] = arms.evaluate(
                recipe, arm, trained, test, ctx, state.prompts, state.directory.path
            )
            took = time.monotonic() - began
            state.speeds.setdefault(arm, {})["evaluation_seconds"] = took
            state.log.info(
                f"arm {arm}: accuracy {results[arm].accuracy:.3f} (n={len(results[arm].right)})"
            )
    return results


def _trained(state: RunState, arm: Arm, encoded: arms.Encoded) -> arms.Trained:
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
    if done.seconds_per_step is not None:
        state.speeds.setdefault(arm, {})["seconds_per_step"] = done.seconds_per_step
    return done


def _adopted(state: RunState) -> ModelRef:
    stage = state.recipe.adopt.stage if state.recipe.adopt else ""
    ref = state.published.get(stage)
    if ref is None:
        raise NfilterError(
            f"train: stage {stage!r} published no model; stages that did: {sorted(state.published)}"
        )
    # The arm's adapter has the same path whether a stage or the trainer made it.
    out = state.directory.path / "adapters" / "cleaned"
    with publishing_folder(out) as part:
        shutil.copytree(ref.path, part, dirs_exist_ok=True)
    return replace(ref, path=str(out))


def _arm_samples(arm: Arm, source: Artefact[Sample], truth: Mapping[str, str]) -> list[Sample]:
    if arm == "raw":
        return list(live(source))
    return [
        sample.relabel(truth[sample.id], "the truth")
        for sample in live(source)
        if sample.id in truth
    ]


def _files(state: RunState) -> list[str]:
    """The files in the run's own folder that readers verify."""
    evaluated = [f"evaluation/{arm}.jsonl" for arm in state.recipe.arms if state.recipe.evaluate]
    tokens = ["tokens/index.json"] if state.recipe.encodes else []
    return [LOCK, CLEANED, DROPPED, "metrics.json", *evaluated, *tokens]


def _manifest(state: RunState, runs: Sequence[Mapping[str, Any]]) -> None:
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
                {**_stage(state, done), "relabelled": done.changed} for done in state.finished
            ],
            "token_stages": [
                {**_stage(state, done), "changed": done.changed} for done in state.tokens_finished
            ],
            "arms": state.speeds,
        },
    )


def _stage(state: RunState, done: StageFinished) -> dict[str, Any]:
    made = open_samples(state.directory.path / done.stage).summary()
    return {
        "stage": done.stage, "kept": done.kept, "dropped": done.dropped, "seconds": done.seconds,
        "reused": done.reused, "made_in_seconds": made["seconds"],
    }  # fmt: skip
