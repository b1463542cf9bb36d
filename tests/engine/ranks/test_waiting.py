"""A rank waits for the others, says for which, and refuses ranks of another run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from nfilter import (
    ContractError,
    NfilterError,
    Sample,
    State,
    StoreError,
)
from nfilter.engine.ranks import worker
from nfilter.engine.ranks.calls import SharedCalls
from nfilter.engine.ranks.place import Place
from nfilter.engine.ranks.waiting import Waiting
from nfilter.engine.run import run
from tests.engine.ranks.stages import ASKS, Stage, Where, ask


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


def test_a_rank_without_chunks_gives_up_what_it_claimed_in_another_world(
    together: Any, kit: Any, stage: Stage, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunk 4 is that of rank 1 of 3, and then that of rank 0 of 2, when rank 1 has no other to do."""
    kills = [True]

    def broken(*_: object) -> None:
        raise ContractError("the model is gone")

    def process(chunk: Sequence[Sample], state: State, ctx: Any) -> Sequence[Sample]:
        if not kills or chunk[0].query != "8+1":
            return ask(chunk, state, ctx)
        for index in range(4):
            wait_for((kit.out / f"01-extra.ask/decisions-{index:06}.jsonl").exists)
        with monkeypatch.context() as patch:
            patch.setattr("nfilter_example.model.Adder.generate", broken)
            # The claims stay, as those of a killed process do.
            patch.setattr(SharedCalls, "settle", broken)
            return ask(chunk, state, ctx)

    stages = [stage("extra.ask", process, contract=ASKS)]
    with pytest.raises(NfilterError, match="the model is gone"):
        together.run(stages, 3)
    assert len(asked) == 8
    together.errors.clear()
    kills.clear()
    together.run(stages, 2)
    assert together.errors == {}
    assert sorted(asked) == [f"{n}+1" for n in range(10)]


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
