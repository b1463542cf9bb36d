"""What each run in a directory took stays on record: the first one's, those of reruns, and of runs that ended badly."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from nfilter import Completion, Contract, Generates, ModelNeed, Request, Sample, StoreError
from nfilter.engine.seeds import run_seeds
from nfilter.recipe.model import load
from nfilter.report.runs import spent
from nfilter.report.summary import summarise
from nfilter.store.files import read_sealed, write_sealed

Stage = Callable[..., type]
ASKS = Contract(writes=frozenset({"view"}), needs=(ModelNeed("student", Generates),))


@pytest.fixture(autouse=True)
def priced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer of the model costs half a dollar."""
    from nfilter_example.model import Adder

    generate = Adder.generate

    def paid(self: Any, requests: Sequence[Request]) -> list[Completion]:
        return [replace(answer, usd=0.5) for answer in generate(self, requests)]

    monkeypatch.setattr(Adder, "generate", paid)


class Asking:
    """A stage that asks about every row, and may be told to end badly behind a chunk."""

    def __init__(self, error: type[BaseException] | None = None) -> None:
        self.error = error
        self.chunks = 0

    def process(self, chunk: Sequence[Sample], state: Any, ctx: Any) -> list[Sample]:
        requests = [Request(sample.context, sample_id=sample.id) for sample in chunk]
        answers = ctx.model("student").generate(requests)
        self.chunks += 1
        if self.error is not None and self.chunks == 2:
            raise self.error("enough")
        return [s.note("view", answer.text) for s, answer in zip(chunk, answers, strict=True)]


def runs_of(kit: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read_sealed(kit.out / "runs.json", kit.out)["runs"]
    return found


def screen(kit: Any, metrics: Any) -> str:
    out = io.StringIO()
    summarise(kit.out, metrics, Console(file=out, width=200))
    return " ".join(out.getvalue().split())


def test_a_rerun_leaves_the_time_and_cost_of_the_first_run(kit: Any, stage: Stage) -> None:
    ask = stage("extra.ask", Asking().process, contract=ASKS)
    first = kit.run([ask]).metrics
    (only,) = runs_of(kit)
    assert (only["ended"], only["usd"], only["calls"]) == ("done", 5.0, 10)
    assert "dollars 5.0000 time" in screen(kit, first)
    made = kit.json("manifest.json")["stages"][0]["made_in_seconds"]
    second = kit.run([ask]).metrics
    assert second == first
    before, last = runs_of(kit)
    assert before == only
    assert (last["ended"], last["usd"], last["calls"]) == ("done", 0.0, 0)
    manifest = kit.json("manifest.json")
    assert manifest["runs"] == [before, last]
    assert manifest["stages"][0]["made_in_seconds"] == made > manifest["stages"][0]["seconds"] == 0
    said = screen(kit, second)
    assert "dollars 5.0000 in all 2 runs, 0.0000 in this one" in said
    assert "calls 10 in all 2 runs, 0 in this one" in said
    assert "in all 2 runs" in said.split("time")[1]
    page = (kit.out / "report.html").read_text(encoding="utf-8")
    assert "5.0000 in all 2 runs, 0.0000 in this one" in page
    third = kit.run([stage("extra.more"), ask], rows="100+1 => 101\n").metrics
    assert [run["calls"] for run in runs_of(kit)] == [10, 0, 1]
    assert "dollars 5.5000 in all 3 runs, 0.5000 in this one" in screen(kit, third)


@pytest.mark.parametrize(
    ("error", "raised", "ended"),
    [
        (KeyboardInterrupt, KeyboardInterrupt, "stopped"),
        (StoreError, StoreError, "failed: StoreError"),
    ],
)
def test_a_run_that_ended_badly_counts(
    kit: Any, stage: Stage, error: Any, raised: Any, ended: str
) -> None:
    with pytest.raises(raised):
        kit.run([stage("extra.ask", Asking(error).process, contract=ASKS)])
    kit.run([stage("extra.ask", Asking().process, contract=ASKS)])
    first, second = runs_of(kit)
    assert (first["ended"], first["usd"], first["calls"]) == (ended, 4.0, 8)
    assert (second["ended"], second["usd"], second["calls"]) == ("done", 1.0, 2)
    assert first["seconds"] > 0


def test_a_run_that_was_killed_has_what_nobody_else_accounts_for(kit: Any, stage: Stage) -> None:
    with pytest.raises(KeyboardInterrupt):
        kit.run([stage("extra.ask", Asking(KeyboardInterrupt).process, contract=ASKS)])
    # What a kill leaves: the beginning alone.
    (first,) = runs_of(kit)
    begun = {**first, "ended": None, "seconds": 0.0, "usd": 0.0, "calls": 0}
    write_sealed(kit.out / "runs.json", {"runs": [begun]})
    metrics = kit.run([stage("extra.ask", Asking().process, contract=ASKS)]).metrics
    killed, last = runs_of(kit)
    assert (killed["ended"], killed["seconds"]) == ("killed", None)
    assert (killed["usd"], killed["calls"]) == (4.0, 8)
    assert (last["usd"], last["calls"]) == (1.0, 2)
    said = screen(kit, metrics)
    assert "dollars 5.0000 in all 2 runs, 1.0000 in this one" in said
    assert "in this one, without 1 of unknown length" in said


def test_a_record_that_is_damaged_is_named_and_nothing_that_was_paid_is_lost(
    kit: Any, stage: Stage
) -> None:
    ask = stage("extra.ask", Asking().process, contract=ASKS)
    kit.run([ask])
    (kit.out / "runs.json").write_text("[]")
    kit.run([ask])
    assert any("runs.json is not a JSON object" in text for text in kit.reporter.warnings)
    first, last = runs_of(kit)
    assert (first["ended"], first["usd"], first["calls"]) == ("not on record", 5.0, 10)
    assert (last["usd"], last["calls"]) == (0.0, 0)


def test_the_seeds_of_a_group_are_told_together(kit: Any, stage: Stage) -> None:
    ask = stage("extra.ask", Asking().process, contract=ASKS)
    kit.run([ask])
    recipe = load(kit.home / "r.yaml", plugins := kit.catalogue(stages=[ask]))
    out = kit.home / "group"
    run_seeds(recipe, plugins, out, [0, 1])
    found = spent(out)
    assert found is not None
    assert found[0] == found[1]
    # The second seed is lent the answers of the first.
    assert (found[0].usd, found[0].calls, found[0].runs) == (5.0, 10, 1)
    run_seeds(recipe, plugins, out, [0, 1])
    again = spent(out)
    assert again is not None
    assert (again[0].usd, again[0].calls) == (0.0, 0)
    assert (again[1].usd, again[1].calls, again[1].runs) == (5.0, 10, 2)
