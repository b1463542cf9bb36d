"""Run one recipe with several seeds, and summarise their figures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nfilter.api.errors import NothingLeftError
from nfilter.engine.arms import arm_results
from nfilter.engine.lookup import site_of
from nfilter.engine.run import RunResult, run
from nfilter.metrics.arms import group
from nfilter.models.pool import ModelPool
from nfilter.progress import Reporter
from nfilter.recipe.model import Recipe
from nfilter.registry.loading import Plugins
from nfilter.report.html import write_report
from nfilter.store.begun_calls import paid_in_run
from nfilter.store.files import write_json, write_sealed
from nfilter.store.run_directory import RunDirectory, refuse_other_kind


def run_seeds(
    recipe: Recipe,
    plugins: Plugins,
    out: Path,
    seeds: Sequence[int],
    *,
    limit: int | None = None,
    reporter: Reporter | None = None,
) -> RunResult:
    """Run a recipe once per seed, in ``out/seed-N``; ``out/metrics.json`` has means, standard deviations and n.

    A seed without rows to train on is listed under ``nothing_left``, and the figures are of the others.

    Raises:
        NothingLeftError: if no seed has rows to train on.
        StoreError: if ``out`` holds the run of one seed.
    """
    refuse_other_kind(out, seeds=True)
    # One process for all seeds: a call that two seeds need is then made once, and one budget counts all of them.
    with RunDirectory(out).held(group=True):
        return _run_seeds(recipe, plugins, out, seeds, limit=limit, reporter=reporter)


def _run_seeds(
    recipe: Recipe,
    plugins: Plugins,
    out: Path,
    seeds: Sequence[int],
    *,
    limit: int | None,
    reporter: Reporter | None,
) -> RunResult:
    start = time.monotonic()
    pool = ModelPool(recipe, site_of(recipe, plugins, out))
    children: list[RunResult] = []
    empty: dict[str, str] = {}
    pool.paid_before(sum(paid_in_run(out / f"seed-{seed}") for seed in seeds))
    try:
        for seed in seeds:
            if reporter is not None:
                reporter.info(f"seed {seed}")
            try:
                child = run(
                    recipe.model_copy(update={"seed": seed}),
                    plugins,
                    out / f"seed-{seed}",
                    limit=limit,
                    reporter=reporter,
                    pool=pool,
                    lenders=[done.directory / "journal.db" for done in children],
                )
            except NothingLeftError as error:
                empty[str(seed)] = str(error)
                if reporter is not None:
                    reporter.warning(f"seed {seed}: {error}")
                continue
            children.append(child)
    finally:
        pool.close()
    if not children:
        raise NothingLeftError(f"no seed has rows left to train on. {' '.join(empty.values())}")
    ran = [seed for seed in seeds if str(seed) not in empty]
    metrics = group(
        [
            {key: value for key, value in child.metrics.items() if key != "warnings"}
            for child in children
        ],
        ran,
        [arm_results(child.directory, child.metrics.get("arms") or {}) for child in children],
    )
    if warned := _warnings(children, ran):
        metrics["warnings"] = warned
    if empty:
        metrics["nothing_left"] = empty
    seal = write_json(out / "metrics.json", metrics)
    write_sealed(out / "manifest.json", {"seeds": list(seeds), "files": {"metrics.json": seal}})
    write_report(out, metrics)
    return RunResult(out, metrics, time.monotonic() - start)


def _warnings(children: Sequence[RunResult], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """The distinct warnings of all seeds, each with its total count and its seeds."""
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for child, seed in zip(children, seeds, strict=True):
        for warning in child.metrics.get("warnings", ()):
            key = (warning["stage"], warning["text"])
            entry = merged.setdefault(key, {**warning, "times": 0, "seeds": []})
            entry["times"] += warning["times"]
            entry["seeds"].append(seed)
    return list(merged.values())
