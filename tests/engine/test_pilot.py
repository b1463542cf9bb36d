"""A recipe tried on rows drawn at random: which rows, what it says of all rows, and what the whole run takes over."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from scipy.stats import binomtest

from nfilter import Contract, Sample, State, Verdict
from nfilter.api.budget import Price
from nfilter.api.errors import SourceError
from nfilter.cli import entry
from nfilter.engine import stages
from nfilter.engine.pilot import Pilot, _advice, _budget, pilot
from nfilter.engine.plan import plan
from nfilter.engine.plan_time import pilot_directory
from nfilter.engine.run import run
from nfilter.recipe.model import load as load_recipe
from nfilter.registry.loading import load
from nfilter.report.pilot import render
from nfilter.store.files import read_jsonl, read_sealed

RECIPES = Path(__file__).resolve().parents[2] / "nfilter" / "recipes"
ROWS = "".join(f"{n}+1 => {n + 1}\n" for n in range(200))


def number(sample: Sample) -> int:
    return int(sample.messages[0].content.partition("+")[0])


def judge(chunk: Sequence[Sample], state: Any, ctx: Any) -> list[Sample]:
    """Flag every fourth row, drop every tenth."""
    out = []
    for sample in chunk:
        flagged = number(sample) % 4 == 0
        noted = sample.note("check", Verdict(flagged, float(flagged)).to_json())
        out.append(noted.drop("tenth") if number(noted) % 10 == 0 else noted)
    return out


@pytest.fixture
def tried(kit: Any, stage: Callable[..., type]) -> Callable[..., Pilot]:
    def run_pilot(*, rows: str = ROWS, report: Any = None, **options: Any) -> Pilot:
        fit = None if report is None else lambda stream, ctx: State({"report": report})
        made = stage("extra.check", judge, fit=fit, contract=Contract(writes=frozenset({"check"})))
        (kit.home / "rows.qa").write_text(rows, encoding="utf-8")
        (kit.home / "r.yaml").write_text(kit.recipe_text([made]), encoding="utf-8")
        plugins = kit.catalogue(stages=[made])
        recipe = load_recipe(kit.home / "r.yaml", plugins, options.pop("sets", ()))
        return pilot(recipe, plugins, kit.out, **options)

    return run_pilot


@pytest.mark.parametrize("seed", [0, 7])
def test_rows_are_drawn_from_the_whole_file_and_stand_for_it(
    kit: Any, tried: Callable[..., Pilot], seed: int
) -> None:
    found = tried(count=40, sets=[f"seed={seed}"])
    places = sorted(random.Random(seed).sample(range(200), 40))
    assert [number(sample) for sample in kit.artefact("00-source").samples()] == places
    assert (found.rows, found.all_rows, found.unreadable) == (40, 200, 0)
    expected = {
        "flagged": sum(place % 4 == 0 for place in places),
        "relabelled": 0,
        "dropped": sum(place % 10 == 0 for place in places),
    }
    assert {name: share.count for name, share in found.fates.items()} == expected
    for share in found.fates.values():
        known = binomtest(share.count, 40).proportion_ci(method="wilson")
        assert (share.low, share.high) == pytest.approx((known.low, known.high))


class Clock:
    """The time of stages: ``once`` seconds before the first row of the process, and ``each`` per row."""

    def __init__(self, once: float, each: float) -> None:
        self.now, self.once, self.each = 0.0, once, each

    def monotonic(self) -> float:
        return self.now

    def judge(self, chunk: Sequence[Sample], state: Any, ctx: Any) -> list[Sample]:
        self.now += self.once + self.each * len(chunk)
        self.once = 0.0
        return judge(chunk, state, ctx)


@pytest.fixture
def clocked(
    kit: Any, stage: Callable[..., type], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Pilot]:
    def run_pilot(clock: Clock, fit: Any = None, **options: Any) -> Pilot:
        monkeypatch.setattr(stages, "time", clock)
        contract = Contract(writes=frozenset({"check"}))
        made = stage("extra.check", clock.judge, fit=fit, contract=contract)
        (kit.home / "rows.qa").write_text(ROWS, encoding="utf-8")
        (kit.home / "r.yaml").write_text(kit.recipe_text([made]), encoding="utf-8")
        plugins = kit.catalogue(stages=[made])
        recipe = load_recipe(kit.home / "r.yaml", plugins, options.pop("sets", ()))
        return pilot(recipe, plugins, kit.out, **options)

    return run_pilot


def test_what_is_done_once_is_counted_once(kit: Any, clocked: Callable[..., Pilot]) -> None:
    found = clocked(Clock(once=30, each=2), count=40)
    (cost,) = found.stages
    assert (cost.seconds, cost.all_seconds, cost.measured) == (80, 30 + 2 * 200, True)
    assert found.plan.time is not None
    assert 30 <= found.plan.time.once < 40
    assert "no call; about 7 min" in told(found)
    assert not (kit.out / "timing").exists()
    # The artefacts of the first pilot are reused, and so is what it measured.
    again = clocked(Clock(once=30, each=2), count=40)
    assert again.stages == found.stages


def test_the_time_of_few_rows_is_an_upper_bound(clocked: Callable[..., Pilot]) -> None:
    found = clocked(Clock(once=30, each=2), count=10)
    assert (found.stages[0].all_seconds, found.stages[0].measured) == ((30 + 20) * 20, False)
    assert found.plan.time is None
    assert "at most 17 min (loading models is counted per row), without training" in told(found)


def test_a_stage_that_needs_more_rows_is_timed_on_all_of_the_pilot(
    clocked: Callable[..., Pilot],
) -> None:
    def fit(stream: Any, ctx: Any) -> State:
        if sum(1 for _ in stream) < 40:
            raise SourceError("too few rows")
        return State()

    found = clocked(Clock(once=30, each=2), fit, count=40)
    assert (found.stages[0].all_seconds, found.stages[0].measured) == ((30 + 80) * 5, False)


def test_training_and_test_are_timed_and_a_plan_says_so_too(tmp_path: Path) -> None:
    plugins = load()
    sets = ["source.rows=120", "evaluate.limit=40", "train.batch_size=auto", "train.epochs=auto"]
    recipe = load_recipe(RECIPES / "quickstart.yaml", plugins, sets)
    target = tmp_path / "run"
    tried = pilot(recipe, plugins, pilot_directory(target), count=20)
    time = tried.plan.time
    assert time is not None
    assert time.training
    assert time.evaluation
    assert time.questions == 4 * 40
    # Of 120 rows, raw and truth take 30 steps of 4 in each of 4 epochs.
    kept = tried.rows - tried.fates["dropped"].count
    per_epoch = -(-round(120 * kept / 20) // 4)
    cleaned = per_epoch * max(4, -(-60 // per_epoch))
    assert time.steps == 2 * 120 + cleaned
    screen = told(tried)
    assert f"{time.steps} optimiser steps in all arms; about " in screen
    assert "160 questions to all arms; about " in screen
    assert not list(pilot_directory(target).glob("adapters"))

    assert plan(recipe, plugins, None, target).time == time

    def planned(*more: str) -> Any:
        other = load_recipe(RECIPES / "quickstart.yaml", plugins, [*sets, *more])
        return plan(other, plugins, None, target).time

    assert planned("train.rank=8").training is None
    assert planned("train.rank=8").evaluation == time.evaluation
    assert planned("train.epochs=8").steps == 2 * 240 + 8 * per_epoch
    assert planned("samples.0.k=3") is None
    assert planned("models.student.dtype=bfloat16") is None


def test_a_training_that_fails_is_said(tmp_path: Path) -> None:
    plugins = load()
    sets = ["source.rows=60", "samples=[]", 'train.target_modules=["nowhere"]']
    recipe = load_recipe(RECIPES / "quickstart.yaml", plugins, sets)
    found = pilot(recipe, plugins, tmp_path / "run", count=20)
    assert any(line.startswith("training or its test fails: ") for line in found.advice)
    assert "time not measured" in told(found)


def test_no_more_rows_than_there_are_and_no_arm_is_trained(
    kit: Any, tried: Callable[..., Pilot]
) -> None:
    found = tried(rows="".join(ROWS.splitlines(keepends=True)[:8]) + "broken\n", count=50)
    assert (found.rows, found.all_rows, found.unreadable) == (8, 8, 1)
    assert any("1 row" in line and "quarantine.jsonl" in line for line in found.advice)


def told(found: Pilot) -> str:
    console = Console(file=StringIO(), width=160)
    render(found, console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


@pytest.mark.types("try more rows with --rows, or leave it out")
def test_a_view_at_chance_is_named_with_what_to_do(tried: Callable[..., Pilot]) -> None:
    report = {
        "good": {"informative": True},
        "bad": {"informative": False},
        "not_asked": {"slow": "its first answers are no better"},
    }
    found = tried(count=20, report=report)
    assert [(view.name, view.informative) for view in found.views] == [
        ("good", True), ("bad", False), ("slow", False),
    ]  # fmt: skip
    screen = told(found)
    assert (
        "bad is no better than chance on these 20 rows; try more rows with --rows, or leave it out"
        in screen
    )
    assert (
        "slow is no better than chance on these 20 rows (its first answers are no better)" in screen
    )
    assert "good is no better" not in screen


def test_hostile_names_reach_no_terminal(tried: Callable[..., Pilot]) -> None:
    found = tried(count=20, report={"not_asked": {"v\x1b[2J": "why\x1b[31m"}})
    assert "\x1b" not in told(found)


@pytest.mark.types(
    "read some with `nfilter explain`", "% of all rows would be; try more rows with --rows"
)
def test_most_rows_flagged_is_worth_a_look(kit: Any, tried: Callable[..., Pilot]) -> None:
    fourth = "".join(f"{4 * n}+1 => {4 * n + 1}\n" for n in range(60))
    found = tried(rows=fourth, count=30)
    assert any("most rows are flagged (30 of 30)" in line for line in found.advice)
    sample = next(iter(kit.artefact("00-source").samples()))
    assert entry(["explain", str(kit.out), sample.id]) == 0
    quiet = "".join(f"{4 * n + 1}+1 => {4 * n + 2}\n" for n in range(60) if (4 * n + 1) % 10)
    found = tried(rows=quiet, count=30)
    high = binomtest(0, 30).proportion_ci(method="wilson").high
    assert any(f"at most {100 * high:.0f}% of all rows would be" in line for line in found.advice)


def test_the_whole_run_asks_nothing_that_the_pilot_asked(tmp_path: Path) -> None:
    plugins = load()
    recipe = load_recipe(RECIPES / "quickstart.yaml", plugins, ["source.rows=60", "arms=[]"])
    target = tmp_path / "run"
    tried = pilot(recipe, plugins, pilot_directory(target), count=20)
    assert tried.stages[1].calls == 20
    assert not list(pilot_directory(target).glob("adapters/*"))
    run(recipe, plugins, target, lenders=[pilot_directory(target) / "journal.db"])
    last = read_sealed(target / "runs.json", target)["runs"][-1]
    drawn = {
        row["id"] for row in read_jsonl(pilot_directory(target) / "cleaned.jsonl") if "id" in row
    }
    assert last["lent"] >= 20, drawn


def test_the_cost_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = load()

    def bound(usd: float | None, *sets: str) -> float | None:
        recipe = load_recipe(RECIPES / "quickstart.yaml", plugins, ["source.rows=10", *sets])
        found = _budget(recipe, usd)
        return None if found is None else found.usd

    assert bound(None) is None  # a local model costs nothing
    backend: Any = load_recipe(RECIPES / "quickstart.yaml", plugins).model("expert")
    price = Price(1e-6, 1e-6)
    monkeypatch.setattr(
        backend.item.cls, "price", classmethod(lambda cls, config: price), raising=False
    )
    assert bound(None) == 1
    assert bound(0.2) == 0.2
    assert bound(None, "budget.usd=0.5") == 0.5
    assert bound(None, "budget.usd=20") == 1
    assert bound(3, "budget.usd=20") == 3
    monkeypatch.setattr(backend.item.cls, "price", classmethod(lambda cls, config: None))
    assert bound(None) is None


@pytest.mark.types("raise budget.usd, or the run stops early")
def test_a_budget_below_the_cost_of_all_rows_is_named(
    kit: Any, tried: Callable[..., Pilot]
) -> None:
    found = replace(tried(count=20), all_usd=7.5)

    def advice(usd: float) -> list[str]:
        text = kit.recipe_text([], f"budget: {{usd: {usd}}}\n")
        (kit.home / "b.yaml").write_text(text, encoding="utf-8")
        return list(_advice(found, load_recipe(kit.home / "b.yaml", kit.catalogue())))

    assert any("all rows cost about $7.50, and the budget is $5" in line for line in advice(5))
    assert not any("budget" in line for line in advice(8))


def test_without_a_readable_row_nothing_is_tried(tried: Callable[..., Pilot]) -> None:
    with pytest.raises(SourceError, match="no row can be read, so nothing can be tried"):
        tried(rows="broken\nalso broken\n")
