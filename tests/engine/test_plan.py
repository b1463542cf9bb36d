"""What is expected of a run before a call is made: against the calls that it then makes, and by hand."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nfilter.api.budget import Price
from nfilter.engine.plan import plan, price_of
from nfilter.engine.plan_time import model_digest
from nfilter.engine.run import run
from nfilter.models.pace import PACES
from nfilter.recipe.model import load as load_recipe
from nfilter.registry.loading import load
from nfilter.report.plan import hours, render
from nfilter.store.files import write_sealed

RECIPES = Path(__file__).resolve().parents[2] / "nfilter" / "recipes"


@pytest.mark.parametrize("sets", [[], ["samples.1.rounds=2", "samples.3.sure=null"]])
def test_a_run_stays_within_its_plan(tmp_path: Path, sets: list[str]) -> None:
    plugins = load()
    smaller = ["source.rows=40", "arms=[]", *sets]
    recipe = load_recipe(RECIPES / "quickstart.yaml", plugins, smaller)
    expected = {stage.stage: stage for stage in plan(recipe, plugins).stages}
    metrics = run(recipe, plugins, tmp_path / "run").metrics
    made = metrics["calls"]["by_stage"]
    assert set(made) <= set(expected)
    assert set(expected) == {"02-robustft.reason", "04-robustft.relabel", "05-robustft.review"}
    for label, stage in expected.items():
        calls = made.get(label, {"calls": 0})["calls"]
        assert stage.calls.low <= calls <= stage.calls.high
        # ``tiny`` has a token for every two or three characters of its world.
        tokens = made.get(label, {"tokens": 0})["tokens"]
        assert tokens <= stage.prompt_tokens.high + stage.completion_tokens.high


@pytest.mark.types("needs prices: set price:")
def test_a_price_makes_dollars(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = load()
    recipe = load_recipe(RECIPES / "quickstart.yaml", plugins, ["source.rows=10", "budget.usd=2"])
    free = plan(recipe, plugins)
    assert (free.rows, free.budget) == (10, 2.0)
    assert free.usd is not None
    assert free.usd.high == 0

    backend: Any = recipe.model("expert")
    monkeypatch.setattr(
        backend.item.cls, "price", classmethod(lambda cls, config: Price(1.0, 10.0)), raising=False
    )
    assert price_of(recipe, "expert") == Price(1.0, 10.0)
    priced = plan(recipe, plugins)
    assert priced.usd is not None
    for name in ("low", "usual", "high"):
        by_hand = sum(
            getattr(s.prompt_tokens, name) + 10 * getattr(s.completion_tokens, name)
            for s in priced.stages
        )
        assert getattr(priced.usd, name) == pytest.approx(by_hand)
    monkeypatch.setattr(backend.item.cls, "price", classmethod(lambda cls, config: None))
    assert plan(recipe, plugins).usd is None

    def told(found: Any) -> str:
        console = Console(record=True, width=200, file=StringIO())
        render(found, console)
        return console.export_text()

    assert "needs prices: set price: {prompt: 0.15, completion: 0.6} on the model" in told(
        plan(recipe, plugins)
    )
    monkeypatch.setattr(
        backend.item.cls, "price", classmethod(lambda cls, config: Price(0.15e-6, 0.6e-6))
    )
    assert "needs prices" not in told(plan(recipe, plugins))


def test_earlier_answers_that_prompts_show_are_in_the_plan(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1+1", "response": "2"}\n' * 2)
    (tmp_path / "r.yaml").write_text(
        "name: mixed\nmodels: {expert: {use: hf, model: tiny}, encoder: expert}\n"
        "source: {use: jsonl, path: rows.jsonl}\n"
        "samples:\n  - {use: entp.pair}\n  - {use: entp.mix, max_tokens: 1000, check_tokens: 100}\n"
    )
    plugins = load()

    def shown(*sets: str) -> list[float]:
        """Prompt tokens a call at most: instruction, its check, its repair, answer, its check, its repair."""
        stages = plan(load_recipe(tmp_path / "r.yaml", plugins, sets), plugins).stages
        return [stage.prompt_tokens.high / stage.calls.high for stage in stages]

    first = shown()
    drafts, checks = shown("samples.1.max_tokens=2000"), shown("samples.1.check_tokens=200")
    slopes = [
        round((after - before) / 1000, 9) for before, after in zip(first, drafts, strict=True)
    ]
    assert slopes == [0, 1, 1, 1, 2, 2]
    slopes = [round((after - before) / 100, 9) for before, after in zip(first, checks, strict=True)]
    assert slopes == [0, 0, 1, 0, 0, 1]


def test_hours_come_from_what_a_run_of_the_same_model_measured(tmp_path: Path) -> None:
    plugins = load()
    recipe = load_recipe(RECIPES / "quickstart.yaml", plugins, ["source.rows=100"])
    unknown = plan(recipe, plugins, None, tmp_path).stages
    assert all(stage.local and stage.seconds is None for stage in unknown)

    record = {"calls": 10, "prompt_tokens": 500, "completion_tokens": 200, "seconds": 20.0}
    of = model_digest(recipe, "expert")
    write_sealed(
        tmp_path / PACES, {"stages": {"02-robustft.reason": {"expert": {**record, "of": of}}}}
    )
    stages = {stage.stage: stage for stage in plan(recipe, plugins, None, tmp_path).stages}
    own, other = stages["02-robustft.reason"], stages["04-robustft.relabel"]
    assert own.seconds is not None
    assert other.seconds is not None
    # Two seconds a call of this very stage; another one goes by its tokens, at ten a second.
    assert own.seconds.usual == pytest.approx(2 * own.calls.usual)
    assert other.seconds.usual == pytest.approx(other.completion_tokens.usual / 10)
    assert own.tokens_per_second == other.tokens_per_second == 10
    assert hours(own) == "expert: about 3 min, at 10 tokens/s"

    slower = load_recipe(
        RECIPES / "quickstart.yaml", plugins, ["source.rows=100", "models.student.dtype=float32"]
    )
    assert all(stage.seconds is None for stage in plan(slower, plugins, None, tmp_path).stages)


def test_a_plan_says_hours_or_how_they_are_found_out(tmp_path: Path) -> None:
    plugins = load()
    recipe = load_recipe(RECIPES / "quickstart.yaml", plugins, ["source.rows=100"])

    def told() -> str:
        console = Console(file=StringIO(), width=200)
        render(plan(recipe, plugins, None, tmp_path), console)
        assert isinstance(console.file, StringIO)
        return console.file.getvalue()

    assert "is measured by a run: nfilter run RECIPE --limit 64, then plan again" in told()
    record = {"calls": 10, "prompt_tokens": 500, "completion_tokens": 200, "seconds": 2000.0}
    of = model_digest(recipe, "expert")
    write_sealed(
        tmp_path / PACES, {"stages": {"02-robustft.reason": {"expert": {**record, "of": of}}}}
    )
    assert "expert: about 5 h 33 min, at 0.1 tokens/s" in told()
    assert "--limit 64" not in told()
