"""Several ranks share the chunks of stages: the results are those of one process, and no call is made twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import nfilter
from nfilter import (
    Contract,
    ContractError,
    Generates,
    ModelNeed,
    NfilterError,
    Recipe,
    Request,
    Sample,
    State,
    StoreError,
)
from nfilter.engine.ranks import worker
from nfilter.engine.ranks.calls import SharedCalls
from nfilter.engine.ranks.place import Place
from nfilter.engine.ranks.waiting import Waiting
from nfilter.engine.run import run

Stage = Callable[..., type]
ASKS = Contract(writes=frozenset({"view"}), needs=(ModelNeed("student", Generates),))


def ask(chunk: Sequence[Sample], state: State, ctx: Any) -> list[Sample]:
    requests = [Request(sample.context, sample_id=sample.id) for sample in chunk]
    done = ctx.model("student").generate(requests)
    return [
        sample.note("view", answer.text).keep(f"it is {answer.text}")
        for sample, answer in zip(chunk, done, strict=True)
    ]


def drop(chunk: Sequence[Sample], state: State, ctx: Any) -> list[Sample]:
    limit: Any = state.values["limit"]
    return [
        sample.drop("its response is long") if len(sample.response) > limit else sample
        for sample in chunk
    ]


def median(stream: Any, ctx: Any) -> State:
    sizes = sorted(len(sample.response) for sample in stream)
    return State({"limit": sizes[len(sizes) // 2]})


class Where:
    """A stage that records the rank of each chunk, and may fail once in one of them."""

    def __init__(self, fail: str = "", error: type[BaseException] = KeyboardInterrupt) -> None:
        self.threads: dict[str, str] = {}
        self.fail, self.error = fail, error

    def process(self, chunk: Sequence[Sample], state: State, ctx: Any) -> list[Sample]:
        name = threading.current_thread().name
        self.threads[chunk[0].query] = name if name.startswith("rank") else "rank 0"
        done = ask(chunk, state, ctx)
        if self.fail and self.fail in {sample.query for sample in chunk}:
            self.fail = ""
            raise self.error("stopped")
        return done


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


def test_a_run_that_starts_and_fails_between_two_looks_ends_the_rank_that_waits(
    together: Any, kit: Any, stage: Stage
) -> None:
    def fail(chunk: Sequence[Sample], state: State, ctx: Any) -> list[Sample]:
        raise NfilterError("no")

    recipe, plugins = together.prepare([stage("extra.ask", fail, contract=ASKS)])
    looks = []

    def sleep(_: float) -> None:
        looks.append(1)
        assert len(looks) == 1
        with pytest.raises(NfilterError):
            run(recipe, plugins, kit.out, place=Place(0, 2))

    with pytest.raises(NfilterError):
        run(recipe, plugins, kit.out, place=Place(0, 2))  # an earlier run, which ends no rank
    waiting = Waiting(together.lines.append, sleep=sleep)
    with pytest.raises(worker.EndedError, match="rank 0 failed"):
        worker.follow(recipe, plugins, kit.out, Place(1, 2), waiting=waiting)
    assert looks == [1]


def wait_for(done: Callable[[], bool]) -> None:
    """Look until ``done`` is true, for half a minute at most."""
    Waiting(lambda _: pytest.fail("half a minute has passed")).until(
        lambda: done() or None, lambda: "a test"
    )


def test_a_rank_of_another_world_that_starts_before_rank_0_keeps_its_calls(
    together: Any, kit: Any, stage: Stage, asked: list[str]
) -> None:
    ended = kit.out / "ranks/1/01-extra.ask/done.json"
    stops = [True]

    def process(chunk: Sequence[Sample], state: State, ctx: Any) -> Sequence[Sample]:
        done = ask(chunk, state, ctx)
        if stops and chunk[0].query == "0+1":
            wait_for(ended.exists)
        if stops and chunk[0].query == "6+1":
            raise KeyboardInterrupt
        return done

    stages = [stage("extra.ask", process, contract=ASKS)]
    with pytest.raises(KeyboardInterrupt):
        together.run(stages, 3)
    # Rank 0 has published the chunks of rank 1, which alone has their calls.
    assert (kit.out / "01-extra.ask/decisions-000001.jsonl").exists()
    together.errors.clear()
    stops.clear()
    recipe, plugins = together.prepare(stages)
    thread = together.follower(recipe, plugins, Place(1, 2), kit.out)
    thread.join(0.2)  # it waits for rank 0, whichever of the two is first
    run(recipe, plugins, kit.out, place=Place(0, 2))
    thread.join(60)
    assert together.errors == {}
    assert len(asked) == 10
    assert kit.json("manifest.json")["calls"]["01-extra.ask"]["calls"] == 10


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


def test_an_error_that_may_pass_is_told_and_waited_for(
    together: Any, kit: Any, stage: Stage
) -> None:
    where = Where("2+1", OSError)
    stages = [stage("extra.ask", where.process, contract=ASKS)]
    recipe, plugins = together.prepare(stages)
    first = together.follower(recipe, plugins, Place(1, 2), kit.out)
    told = threading.Event()
    warn = kit.reporter.warning

    def warning(text: str) -> None:
        warn(text)
        told.set()

    kit.reporter.warning = warning

    def again() -> None:
        first.join(60)
        told.wait(60)
        together.follower(recipe, plugins, Place(1, 2), kit.out)

    watching = threading.Thread(target=again)
    watching.start()
    run(recipe, plugins, kit.out, reporter=kit.reporter, place=Place(0, 2))
    watching.join(60)
    (text,) = kit.reporter.warnings
    assert text.startswith("01-extra.ask: rank 1 ended with an error, and this rank waits until")
    assert "stopped" in text
    assert "warnings" not in kit.json("metrics.json")


def test_decisions_of_people_during_a_run_do_not_concern_it(
    together: Any, kit: Any, stage: Stage
) -> None:
    def decide(chunk: Sequence[Sample], state: State, ctx: Any) -> Sequence[Sample]:
        if threading.current_thread().name == "rank 1":
            (kit.out / "review.jsonl").write_text("")
        return chunk

    together.run([stage("extra.decide", decide)], 2)
    assert together.errors == {}


def test_a_rank_that_comes_when_all_is_done_goes_at_once(
    together: Any, kit: Any, stage: Stage
) -> None:
    stages = [stage("extra.ask", ask, contract=ASKS)]
    together.run(stages, 2)
    recipe, plugins = together.prepare(stages)
    done = worker.follow(recipe, plugins, kit.out, Place(1, 2))
    assert done == worker.Followed(0, 0)


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


class NeverError(BaseException):
    """Raised instead of a pause, as an interrupt is."""


def refuse_to_wait(_: float) -> None:
    raise NeverError


def lone(
    together: Any, stages: Sequence[type], place: Place, waiting: Waiting | None = None
) -> Any:
    recipe, plugins = together.prepare(stages)
    waiting = waiting or Waiting(together.lines.append, sleep=refuse_to_wait)
    return worker.follow(recipe, plugins, together.kit.out, place, waiting=waiting)


def during(stage: Stage, check: Callable[[], Any], said: list[Any]) -> type:
    """A stage during whose first chunk on rank 0 something is tried."""

    def process(chunk: Sequence[Sample], state: State, ctx: Any) -> Sequence[Sample]:
        if not threading.current_thread().name.startswith("rank") and not said:
            try:
                said.append(check())
            except Exception as error:  # noqa: BLE001 (the test looks at it)
                said.append(error)
        return chunk

    return stage("extra.during", process)


@pytest.mark.types("start it with --world «»")
def test_another_world_is_refused_while_a_run_is_in_progress(
    together: Any, kit: Any, stage: Stage
) -> None:
    said: list[Any] = []
    stages: list[type] = []
    stages.append(during(stage, lambda: lone(together, stages, Place(2, 3)), said))
    together.run(stages, 2)
    assert isinstance(said[0], StoreError)
    assert (
        "a run of 2 ranks is in progress, and this is rank 2 of 3; start it with --world 2"
        in str(said[0])
    )
    lone(together, stages, Place(1, 2))  # what the message says


@pytest.mark.types("start all ranks with one command and one installation")
def test_another_recipe_is_refused_while_a_run_is_in_progress(together: Any, stage: Stage) -> None:
    said: list[Any] = []
    other = stage("extra.other")
    stages: list[type] = []
    late: list[threading.Thread] = []

    def check() -> None:
        try:
            lone(together, [other], Place(2, 3))
        finally:
            recipe, plugins = together.prepare(stages)
            late.append(together.follower(recipe, plugins, Place(2, 3), together.kit.out))

    stages.append(during(stage, check, said))
    recipe, plugins = together.prepare(stages)
    first = together.follower(recipe, plugins, Place(1, 3), together.kit.out)
    run(recipe, plugins, together.kit.out, place=Place(0, 3))
    for thread in (first, *late):
        thread.join(60)
    assert isinstance(said[0], StoreError)
    assert "a run with another recipe" in str(said[0])
    assert together.errors == {}


@pytest.mark.types("give each process another --rank, or choose another --out")
def test_a_rank_runs_once(together: Any, kit: Any, stage: Stage) -> None:
    said: list[Any] = []
    stages: list[type] = []
    patient = Waiting(together.lines.append, sleep=lambda _: None)
    stages.append(during(stage, lambda: lone(together, stages, Place(1, 2), patient), said))
    # Rank 1 has the lock before rank 0 shares the stage.
    together.run(stages, 2)
    assert "runs as rank 1 of 2; stop it, give each process another --rank" in str(said[0])
    lone(together, stages, Place(1, 2))


@pytest.mark.types("start this process with --world «», or choose another --out")
@pytest.mark.types("stop it and start all ranks with one command")
def test_rank_0_refuses_ranks_of_another_world_and_recipe(
    together: Any, kit: Any, stage: Stage
) -> None:
    stages = [stage("extra.ask", ask, contract=ASKS)]
    recipe, plugins = together.prepare(stages)
    thread = together.follower(recipe, plugins, Place(1, 2), kit.out)
    while not (kit.out / "ranks/1/journal.db").exists():
        thread.join(0.01)
    with pytest.raises(
        StoreError, match=r"rank 1 of 2 is running in it \(process \d+ on .*--world 2"
    ):
        run(recipe, plugins, kit.out, place=Place(0, 3))
    with pytest.raises(StoreError, match=r"start this process with --world 2"):
        run(recipe, plugins, kit.out)
    other, others = together.prepare([stage("extra.other")])
    with pytest.raises(StoreError, match=r"rank 1 is running in it .* with another recipe"):
        run(other, others, kit.out, place=Place(0, 2))
    run(recipe, plugins, kit.out, place=Place(0, 2))
    thread.join(60)
    assert together.errors == {}


def test_a_rank_waits_until_it_is_interrupted(together: Any, stage: Stage) -> None:
    with pytest.raises(NeverError):
        lone(together, [stage("extra.ask", ask, contract=ASKS)], Place(1, 2))


def test_a_long_wait_is_in_the_log_with_what_and_since_when() -> None:
    lines: list[str] = []
    clock = [0.0]

    def sleep(seconds: float) -> None:
        assert seconds <= 2.0
        clock[0] += seconds

    waiting = Waiting(lines.append, lambda: clock[0], lambda: 86400 * 365.0, sleep)
    found = waiting.until(lambda: True if clock[0] > 3000 else None, lambda: "chunk 5 of rank 2")
    assert found
    assert set(lines) == {"waits for chunk 5 of rank 2, since 1971-01-01 00:00:00 UTC"}
    assert 5 <= len(lines) <= 9


def test_rank_0_says_which_chunk_of_which_rank_it_waits_for(
    together: Any, kit: Any, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nfilter.engine.ranks import leader

    clock = [0.0]

    def sleep(_: float) -> None:
        clock[0] += 20.0
        if clock[0] > 100:
            raise KeyboardInterrupt

    monkeypatch.setattr(
        leader, "Waiting", lambda say: Waiting(say, lambda: clock[0], lambda: 0.0, sleep)
    )
    recipe, plugins = together.prepare([stage("extra.ask", ask, contract=ASKS)])
    with pytest.raises(KeyboardInterrupt):
        run(recipe, plugins, kit.out, reporter=kit.reporter, place=Place(0, 2))
    assert (
        "rank 0 waits for chunk 1 of 01-extra.ask, which rank 1 does and for 1 more chunks, since 1970-01-01 00:00:00 UTC"
        in kit.reporter.infos
    )
    assert "ended" in kit.json("ranks/offer.json")
    assert kit.json("ranks/offer.json")["ended"] == "stopped"
