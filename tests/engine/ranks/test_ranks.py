"""Several ranks share the chunks of stages: the results are those of one process, and no call is made twice."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import nfilter
from nfilter import (
    Contract,
    ContractError,
    NfilterError,
    Recipe,
    Request,
    Sample,
    State,
)
from nfilter.engine.ranks import worker
from nfilter.engine.ranks.calls import SharedCalls
from nfilter.engine.ranks.place import Place
from nfilter.engine.run import run
from tests.engine.ranks.stages import ASKS, Stage, Where, ask


def drop(chunk: Sequence[Sample], state: State, ctx: Any) -> list[Sample]:
    limit: Any = state.values["limit"]
    return [
        sample.drop("its response is long") if len(sample.response) > limit else sample
        for sample in chunk
    ]


def median(stream: Any, ctx: Any) -> State:
    sizes = sorted(len(sample.response) for sample in stream)
    return State({"limit": sizes[len(sizes) // 2]})


@pytest.mark.parametrize("world", [2, 3])
def test_the_results_are_those_of_one_process(
    together: Any, kit: Any, stage: Stage, asked: list[str], results_of: Any, world: int
) -> None:
    stages = [stage("extra.drop", drop, fit=median), stage("extra.ask", ask, contract=ASKS)]
    together.run(stages, 1, out=kit.home / "one")
    alone = list(asked)
    asked.clear()
    together.run(stages, world)
    assert together.errors == {}
    assert sorted(asked) == sorted(alone)
    assert results_of(kit.out) == results_of(kit.home / "one")
    one, many = (kit.json(f"{out}/manifest.json") for out in (kit.home / "one", kit.out))
    assert many["calls"] == one["calls"]
    assert many["fingerprints"] == one["fingerprints"]


@pytest.mark.parametrize("world", [2, 3])
def test_equal_calls_of_several_ranks_are_made_once(
    together: Any, kit: Any, stage: Stage, asked: list[str], results_of: Any, world: int
) -> None:
    rows = "".join(f"{n % 5}+1 => {n % 5 + 1}\n" for n in range(24))
    stages = [stage("extra.ask", ask, contract=ASKS), stage("extra.again", ask, contract=ASKS)]
    together.run(stages, 1, rows=rows, out=kit.home / "one")
    assert sorted(asked) == [f"{n}+1" for n in range(5)]
    asked.clear()
    together.run(stages, world, rows=rows)
    assert together.errors == {}
    assert sorted(asked) == [f"{n}+1" for n in range(5)]
    assert results_of(kit.out) == results_of(kit.home / "one")
    one, many = (kit.json(f"{out}/manifest.json") for out in (kit.home / "one", kit.out))
    assert many["calls"] == one["calls"]
    assert not (kit.out / "ranks" / "calls").exists()


def test_a_rank_that_waits_for_an_answer_ends_with_the_run(
    together: Any, kit: Any, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited, claimed = threading.Event(), threading.Event()
    take, look = SharedCalls.take, SharedCalls.look

    def taking(self: SharedCalls, keys: Sequence[str]) -> Any:
        # Rank 0 claims the only question; rank 1 comes to wait for the answer.
        if threading.current_thread().name == "rank 1":
            assert claimed.wait(60)
        taken = take(self, keys)
        claimed.set()
        return taken

    def looking(self: SharedCalls, keys: Sequence[str]) -> Any:
        found = look(self, keys)
        waited.set()
        return found

    def broken(self: Any, requests: Sequence[Request]) -> Any:
        assert waited.wait(60)
        raise RuntimeError("the model is gone")

    monkeypatch.setattr(SharedCalls, "take", taking)
    monkeypatch.setattr(SharedCalls, "look", looking)
    # The claim stays, as that of a killed process does.
    monkeypatch.setattr(SharedCalls, "settle", lambda *_: None)
    monkeypatch.setattr("nfilter_example.model.Adder.generate", broken)
    with pytest.raises(NfilterError, match="the model is gone"):
        together.run([stage("extra.ask", ask, contract=ASKS)], 2, rows="1+1 => 2\n" * 4)
    assert "rank 0 failed: " in str(together.errors[1])


def test_chunk_i_is_that_of_rank_i_modulo_the_world(together: Any, stage: Stage) -> None:
    where = Where()
    together.run([stage("extra.ask", where.process, contract=ASKS)], 3)
    assert where.threads == {
        "0+1": "rank 0", "2+1": "rank 1", "4+1": "rank 2", "6+1": "rank 0", "8+1": "rank 1",
    }  # fmt: skip
    assert [together.done[rank].chunks for rank in (1, 2)] == [2, 1]


def test_a_rank_finds_the_calls_that_fit_made(
    together: Any, kit: Any, stage: Stage, asked: list[str]
) -> None:
    def fit(stream: Any, ctx: Any) -> State:
        ask(list(stream), State({}), ctx)
        return State({})

    together.run([stage("extra.ask", ask, fit=fit, contract=ASKS)], 3)
    assert together.errors == {}
    assert len(asked) == 10
    assert kit.json("manifest.json")["calls"]["01-extra.ask"]["calls"] == 10


def test_a_later_stage_finds_the_calls_of_other_ranks(
    together: Any, stage: Stage, asked: list[str]
) -> None:
    def fit(stream: Any, ctx: Any) -> State:
        ask(list(stream), State({}), ctx)
        return State({})

    first = stage("extra.ask", ask, contract=ASKS)
    together.run([first, stage("extra.again", ask, fit=fit, contract=ASKS)], 3)
    assert together.errors == {}
    assert len(asked) == 10


def test_a_rank_that_stopped_is_started_again_and_repeats_no_call(
    together: Any, kit: Any, stage: Stage, asked: list[str], results_of: Any
) -> None:
    where = Where("6+1")  # chunk 3, which rank 1 does
    stages = [stage("extra.ask", where.process, contract=ASKS)]
    recipe, plugins = together.prepare(stages)
    first = together.follower(recipe, plugins, Place(1, 2), kit.out)

    def again() -> None:
        first.join(60)
        together.follower(recipe, plugins, Place(1, 2), kit.out)

    watching = threading.Thread(target=again)
    watching.start()
    run(recipe, plugins, kit.out, place=Place(0, 2))
    watching.join(60)
    assert isinstance(together.errors[1], KeyboardInterrupt)
    assert len(asked) == 10
    together.run(stages, 1, out=kit.home / "one")
    assert results_of(kit.out) == results_of(kit.home / "one")


@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_run_that_stopped_goes_on_with_another_number_of_ranks(
    together: Any, kit: Any, stage: Stage, asked: list[str], results_of: Any, world: int
) -> None:
    where = Where("6+1")
    stages = [stage("extra.ask", where.process, contract=ASKS)]
    with pytest.raises(KeyboardInterrupt):
        together.run(stages, 3)  # chunk 6+1 is that of rank 0
    assert {type(error) for error in together.errors.values()} == {worker.EndedError}
    assert "start all ranks again to resume" in str(together.errors[1])
    together.errors.clear()
    together.run(stages, world)
    assert together.errors == {}
    assert len(asked) == 10
    assert kit.json("manifest.json")["calls"]["01-extra.ask"]["calls"] == 10
    together.run(stages, 1, out=kit.home / "one")
    assert results_of(kit.out) == results_of(kit.home / "one")


def test_warnings_of_all_ranks_are_counted_once_each(together: Any, kit: Any, stage: Stage) -> None:
    def warn(chunk: Sequence[Sample], state: State, ctx: Any) -> Sequence[Sample]:
        ctx.log.warning("a chunk was seen")
        return chunk

    together.run([stage("extra.warn", warn)], 3)
    assert kit.json("metrics.json")["warnings"] == [
        {"stage": "01-extra.warn", "text": "a chunk was seen", "times": 5}
    ]


def test_a_stage_that_says_so_runs_on_rank_0_alone(together: Any, kit: Any, stage: Stage) -> None:
    where = Where()
    contract = replace(ASKS, one_process="each chunk needs the one before")
    together.run([stage("extra.ask", where.process, contract=contract)], 3)
    assert set(where.threads.values()) == {"rank 0"}
    assert (
        "01-extra.ask: runs on rank 0 alone, because each chunk needs the one before"
        in kit.reporter.infos
    )


@pytest.mark.types("which only rank 0 can publish; do it in fit, or write")
def test_a_model_that_process_publishes_is_refused(together: Any, stage: Stage) -> None:
    def publish(chunk: Sequence[Sample], state: State, ctx: Any) -> Sequence[Sample]:
        if threading.current_thread().name.startswith("rank"):
            ctx.publish_model(None)
        return chunk

    with pytest.raises(NfilterError, match=r"rank 1: .*its process publishes a model on rank 1"):
        together.run([stage("extra.publish", publish)], 2)
    assert isinstance(together.errors[1], ContractError)
    assert 'one_process="each chunk ..."' in str(together.errors[1])
    fixed = stage("extra.publish", publish, contract=Contract(one_process="each chunk trains"))
    together.errors.clear()
    together.run([fixed], 2)
    assert together.errors == {}


def test_new_samples_of_two_ranks_must_not_have_one_id(together: Any, stage: Stage) -> None:
    def make(chunk: Sequence[Sample], state: State, ctx: Any) -> list[Sample]:
        new = Sample("new", chunk[0].messages, parents=(chunk[0].id,))
        return [*chunk, new]

    with pytest.raises(ContractError, match="new sample 'new' has the id of an existing sample"):
        together.run([stage("extra.make", make, contract=Contract(new_samples=True))], 2, chunk=5)


def test_new_samples_follow_their_chunk(
    together: Any, kit: Any, stage: Stage, results_of: Any
) -> None:
    def make(chunk: Sequence[Sample], state: State, ctx: Any) -> list[Sample]:
        made = [
            Sample.made(ctx.stage, [sample.id], sample.messages, "one more") for sample in chunk[:1]
        ]
        return [*chunk, *made]

    stages = [stage("extra.make", make, contract=Contract(new_samples=True))]
    together.run(stages, 1, out=kit.home / "one")
    together.run(stages, 3)
    assert together.errors == {}
    assert results_of(kit.out) == results_of(kit.home / "one")


def test_ranks_that_are_started_from_python_return_one_result(
    together: Any, tmp_path: Path
) -> None:
    rows = "".join(f'{{"prompt": "{n}+1?", "response": "{n + 1}"}}\n' for n in range(9))
    (tmp_path / "rows.jsonl").write_text(rows)
    recipe = {
        "name": "three",
        "chunk": 2,
        "source": {"use": "jsonl", "path": str(tmp_path / "rows.jsonl")},
        "samples": [{"use": "entp.purge"}],
    }
    with ThreadPoolExecutor() as pool:
        started = [
            pool.submit(nfilter.run, Recipe.from_dict(recipe), tmp_path / "run", rank=rank, world=3)
            for rank in (1, 2)
        ]
        done = nfilter.run(Recipe.from_dict(recipe), tmp_path / "run", rank=0, world=3)
        results = [each.result() for each in started]
    assert len(list(done.rows())) == 9
    assert [each.directory for each in results] == [done.directory] * 2
    assert [each.metrics for each in results] == [done.metrics] * 2
