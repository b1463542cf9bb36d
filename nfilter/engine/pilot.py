"""`nfilter pilot`: run the stages on a random sample of rows, and estimate cost, time and changes for all rows."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from nfilter.api.errors import BudgetError, NfilterError, SourceError
from nfilter.api.notes import Verdict
from nfilter.api.types import Row
from nfilter.engine import timing
from nfilter.engine.ingest import Subset, rows
from nfilter.engine.lookup import site_of
from nfilter.engine.plan import Plan, plan, price_of
from nfilter.engine.run import run
from nfilter.engine.whole_time import keep
from nfilter.metrics.intervals import wilson
from nfilter.models.pool import ModelPool
from nfilter.progress import QuietReporter, Reporter
from nfilter.recipe.model import Recipe
from nfilter.recipe.sections import BudgetConfig
from nfilter.registry.loading import Plugins
from nfilter.report import reading
from nfilter.store.journal import paid_in

ROWS: Final = 50
USD: Final = 1.0
"""Default limit of a pilot, in dollars."""

_SEVERAL: Final = 0.5
"""If more than this share of the rows is flagged or dropped, the advice is to read some of them."""


@dataclass(frozen=True, slots=True)
class Share:
    """``count`` rows of the pilot, and the 95% Wilson interval of their share among all rows, ``low`` to ``high``."""

    count: int
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class StageCost:
    """The cost of a stage in the pilot; ``all_*`` is the cost for all rows.

    ``measured``: ``all_seconds`` counts what is done once, such as loading a model, once. Otherwise it is in proportion to the
    number of rows, and an upper bound. Calls and tokens are in proportion to the number of rows.
    """

    stage: str
    calls: int
    tokens: int
    seconds: float
    all_calls: float
    all_tokens: float
    all_seconds: float
    measured: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """Whether the answers of a view, or of a stage, predict the labels of the pilot's rows better than chance."""

    stage: str
    name: str
    informative: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Pilot:
    """The result of a pilot.

    Attributes:
        directory: The run directory of the pilot; every command for runs accepts it.
        rows: The number of rows that the pilot processed.
        all_rows: The number of readable rows of the source.
        unreadable: The number of rows that cannot be read.
        fates: Shares by ``flagged``, ``relabelled`` and ``dropped``; without ``flagged`` if no stage writes verdicts.
        usd: The cost of the pilot; ``all_usd`` is the cost of all rows at the same rate.
        plan: The plan for all rows, with the time measured by the pilot.
        advice: What to do next, one sentence each.
    """

    directory: str
    rows: int
    all_rows: int
    unreadable: int
    fates: Mapping[str, Share]
    stages: tuple[StageCost, ...]
    views: tuple[View, ...]
    usd: float
    all_usd: float
    plan: Plan
    advice: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return asdict(self)


def pilot(
    recipe: Recipe,
    plugins: Plugins,
    out: Path,
    *,
    count: int = ROWS,
    usd: float | None = None,
    reporter: Reporter | None = None,
) -> Pilot:
    """Run the stages of ``recipe`` on ``count`` rows, drawn at random with its seed, into ``out``. No arm is kept.

    The time of a whole run is measured in further short runs (``timing.py``): a few optimiser steps are trained and a few
    test questions asked.

    The cost is limited to ``usd``, by default to a dollar or the budget of the recipe, whichever is less. If a model has no known
    price, there is no limit in dollars, only the number of rows.

    Raises:
        BudgetError: if the limit is reached.
        SourceError: if no row can be read.
    """
    total = sum(isinstance(row, Row) for row in rows(recipe.source, recipe))
    if not total:
        raise SourceError(
            f"source {recipe.source.use.name}: no row can be read, so nothing can be tried"
        )
    number = min(count, total)
    drawn = random.Random(recipe.seed).sample(range(total), number)
    bounded = recipe.model_copy(
        update={"arms": (), "evaluate": None, "budget": _budget(recipe, usd)}
    )
    pool = ModelPool(recipe, site_of(bounded, plugins, out))
    journal = out / "journal.db"
    pool.paid_before(paid_in(journal))
    report = reporter or QuietReporter()
    report.info(timing.what_is_timed(recipe))
    failed = ""
    try:
        with timing.timing_folder(out) as folder:
            part = timing.part_of(bounded, plugins, folder, pool, drawn, [journal])
            result = run(
                bounded,
                plugins,
                out,
                limit=Subset(tuple(sorted(drawn))),
                reporter=reporter,
                pool=pool,
                lenders=[part.journal] if part is not None else (),
            )
            manifest, metrics = reading.manifest(out), result.metrics
            kept = int(metrics["samples"]["kept"])
            found = timing.measured(recipe, out, manifest, part, number, kept)
            if found is not None:
                try:
                    training, evaluation = timing.timed_arm(recipe, plugins, folder, pool, total)
                except BudgetError:
                    raise
                except NfilterError as error:
                    failed = str(error)
                else:
                    found = replace(found, training=training, evaluation=evaluation)
                keep(out, found)
    finally:
        pool.close()
    planned = plan(recipe, plugins, None, out)
    stages = tuple(_costs(manifest, total / number, planned))
    paid = float(metrics.get("usd") or 0.0) + (part.usd if part is not None else 0.0)
    done = Pilot(
        str(out), number, total, int(metrics["samples"]["unreadable"]), _fates(out, metrics, number),
        stages, tuple(_views(metrics)), paid, paid * total / number, planned, (),
    )  # fmt: skip
    advice = [f"training or its test fails: {failed}"] if failed else []
    return replace(done, advice=(*advice, *_advice(done, recipe)))


def _budget(recipe: Recipe, usd: float | None) -> BudgetConfig | None:
    """Return the budget of a pilot; None if the recipe has none and a called model has no known price."""
    own = recipe.budget.usd if recipe.budget else None
    if usd is not None:
        return BudgetConfig(usd=usd)
    if own is not None:
        return BudgetConfig(usd=min(own, USD))
    asked = [
        calls.model for use in recipe.samples for calls in use.item.cls.contract(use.config).calls
    ]
    prices = [price_of(recipe, model) for model in asked]
    paid = any(price is None or price.prompt or price.completion for price in prices)
    return BudgetConfig(usd=USD) if paid and None not in prices else None


def _fates(out: Path, metrics: Mapping[str, Any], number: int) -> dict[str, Share]:
    counts = {key: int(metrics["samples"][key]) for key in ("relabelled", "dropped")}
    last = reading.last_finished(reading.open_run(out))
    verdicts = [found[1] for sample in last.samples() if (found := Verdict.last_of(sample))]
    if verdicts:
        counts = {"flagged": sum(verdict.flagged for verdict in verdicts), **counts}
    return {
        key: Share(value, *(wilson(min(value, number), number) or (0.0, 1.0)))
        for key, value in counts.items()
    }


def _costs(manifest: Mapping[str, Any], times: float, planned: Plan) -> Iterator[StageCost]:
    asked = manifest.get("calls") or {}
    known = planned.time.stages if planned.time is not None else {}
    for stage in (*manifest["stages"], *manifest["token_stages"]):
        name = stage["stage"]
        used = asked.get(name) or {}
        calls = int(used.get("calls") or 0)
        tokens = int(used.get("prompt_tokens") or 0) + int(used.get("completion_tokens") or 0)
        seconds = float(stage["made_in_seconds"])
        whole = known.get(name, seconds * times)
        yield StageCost(
            name, calls, tokens, seconds, calls * times, tokens * times, whole, name in known
        )


def _views(metrics: Mapping[str, Any]) -> Iterator[View]:
    """Yield the views in the reports of stages: by ``informative``, or under ``not_asked`` with a reason."""
    for label, report in (metrics.get("stages") or {}).items():
        if not isinstance(report, Mapping):
            continue
        for name, value in report.items():
            if name == "not_asked" and isinstance(value, Mapping):
                for view, why in value.items():
                    yield View(label, str(view), informative=False, why=str(why))
            elif isinstance(value, Mapping) and isinstance(value.get("informative"), bool):
                yield View(label, str(name), informative=value["informative"])


def _advice(done: Pilot, recipe: Recipe) -> Iterator[str]:
    weak = [view for view in done.views if not view.informative]
    for view in weak:
        because = f" ({view.why})" if view.why else ""
        yield (
            f"{view.stage}: {view.name} is no better than chance on these {done.rows} rows{because}; try more rows with --rows, or "
            "leave it out"
        )
    for key, share in done.fates.items():
        if key != "relabelled" and share.low > _SEVERAL:
            yield (
                f"most rows are {key} ({share.count} of {done.rows}): read some with `nfilter explain` before the whole run"
            )
    if done.fates and not any(share.count for share in done.fates.values()):
        most = max(share.high for share in done.fates.values())
        yield (
            f"no row is flagged, relabelled or dropped: at most {100 * most:.0f}% of all rows would be; try more rows with --rows"
        )
    if done.unreadable:
        unread = "1 row" if done.unreadable == 1 else f"{done.unreadable:,} rows"
        yield f"{unread} cannot be read: quarantine.jsonl has each with its line and error"
    if recipe.budget is not None and done.all_usd > recipe.budget.usd:
        yield (
            f"all rows cost about ${done.all_usd:.2f}, and the budget is ${recipe.budget.usd:g}: raise budget.usd, or the run stops early"
        )
    yield from done.plan.warnings
