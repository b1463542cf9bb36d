"""One recipe with several seeds: a run each, and their figures together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nfilter.api.errors import NothingLeftError
from nfilter.engine.arms import answered
from nfilter.engine.lookup import site_of
from nfilter.engine.run import RunResult, run
from nfilter.metrics.arms import group
from nfilter.models.pool import ModelPool
from nfilter.progress import Reporter
from nfilter.recipe.model import Recipe
from nfilter.registry.loading import Plugins
from nfilter.report.html import write_report
from nfilter.store.files import write_json, write_sealed
from nfilter.store.journal import paid_in
from nfilter.store.run_directory import keep_apart


def run_seeds(
    recipe: Recipe,
    plugins: Plugins,
    out: Path,
    seeds: Sequence[int],
    *,
    limit: int | None = None,
    reporter: Reporter | None = None,
) -> RunResult:
    """Run a recipe once a seed, in ``out/seed-N``; ``out/metrics.json`` holds means, deviations and n.

    A seed of which nothing is left to train on is named under ``nothing_left``, and the others make the figures.

    Raises:
        NothingLeftError: when nothing is left of any.
        StoreError: when ``out`` holds the run of one seed.
    """
    start = time.monotonic()
    keep_apart(out, seeds=True)
    pool = ModelPool(recipe, site_of(recipe, plugins, out))
    children: list[RunResult] = []
    empty: dict[str, str] = {}
    pool.paid_before(sum(paid_in(out / f"seed-{seed}" / "journal.db") for seed in seeds))
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
        raise NothingLeftError(f"no seed has anything left to train on. {' '.join(empty.values())}")
    ran = [seed for seed in seeds if str(seed) not in empty]
    metrics = group(
        [
            {key: value for key, value in child.metrics.items() if key != "warnings"}
            for child in children
        ],
        ran,
        [answered(child.directory, child.metrics.get("arms") or {}) for child in children],
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
    """The warnings of all seeds; one that several have stands once, with their number of times and its seeds."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for child, seed in zip(children, seeds, strict=True):
        for said in child.metrics.get("warnings", ()):
            key = (said["stage"], said["text"])
            mine = found.setdefault(key, {**said, "times": 0, "seeds": []})
            mine["times"] += said["times"]
            mine["seeds"].append(seed)
    return list(found.values())
