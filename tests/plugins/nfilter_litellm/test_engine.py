"""Many calls against a script of faults in virtual time: outcomes, numbers of attempts, and times."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from nfilter import Completion, ModelError, Request
from nfilter_litellm.breaker import Breaker
from nfilter_litellm.dispatcher import Dispatcher, NotStartedError
from nfilter_litellm.engine import Engine
from nfilter_litellm.failures import CallError, from_status
from nfilter_litellm.feed import Feed
from nfilter_litellm.limiter import Limiter
from nfilter_litellm.retry import Retry
from tests.model_server.faults import Phase, Script, answer

MIX = {
    "limited": 0.01, "limited_after": 0.005, "error": 0.03, "unavailable": 0.01, "hang": 0.005, "reset": 0.02,
    "truncated": 0.01, "empty_body": 0.01, "html": 0.01, "drip": 0.002,
    "empty": 0.01, "refusal": 0.01, "filtered": 0.01, "overflow": 0.01, "overflow_vllm": 0.01, "off_schema": 0.003,
}  # fmt: skip
ENDS = {
    "ok": None, "empty": "parse", "off_schema": "parse", "refusal": "refused", "filtered": "refused",
    "overflow": "too_long", "overflow_vllm": "too_long", "hang": "timeout", "limited": "server",
    "limited_after": "server", **dict.fromkeys(("error", "unavailable", "reset", "truncated", "empty_body", "html", "drip"), "server"),
}  # fmt: skip
"""The recorded failure of a call whose last reply is of this kind."""


@pytest.mark.parametrize("calls", [1500, pytest.param(20_000, marks=pytest.mark.slow)])
def test_in_a_mix_of_faults_every_call_ends_correctly_with_few_attempts(
    simulate: Callable[..., Any], requests: Callable[..., list[Request]], calls: int
) -> None:
    sim = simulate(Script(seed=calls, latency=0.2, faults=MIX))
    asked = requests(calls)
    sim.run(asked)
    assert sim.error is None
    assert sorted(sim.answers) == list(range(calls))
    kinds: Counter[str] = Counter()
    for index, done in sim.answers.items():
        text = asked[index].messages[0].content
        last = sim.plan.served[text][-1]
        kind = done.failure.kind if done.failure else None
        assert kind == ENDS[last], (last, done)
        assert done.text == ("" if kind else answer([{"role": "user", "content": text}]))
        assert (done.finish == "failed") == (kind is not None)
        kinds[last] += 1
    assert kinds["ok"] > 0.9 * calls
    assert {"empty", "refusal", "filtered", "overflow", "overflow_vllm"} <= set(kinds)
    assert sum(sim.plan.counts.values()) == sim.dispatcher.attempts
    assert sim.dispatcher.attempts <= 1.3 * calls
    assert sim.plan.in_flight == 0


@pytest.mark.parametrize("kind", sorted(ENDS))
def test_a_fault_at_every_attempt_is_terminal_and_classified(
    simulate: Callable[..., Any], requests: Callable[..., list[Request]], kind: str
) -> None:
    """One successful call comes first, so the address is known to work."""
    sim = simulate(Script(latency=0.1), attempts=4, patience=120.0)
    sim.run(requests(1))
    sim.transport.plan.script = Script(latency=0.1, faults={} if kind == "ok" else {kind: 1.0})
    sim.answers.clear()
    (call,) = requests(2)[1:]
    sim.run([call])
    (done,) = sim.answers.values()
    assert (done.failure.kind if done.failure else None) == ENDS[kind]
    tries = len(sim.plan.served["question 1"])
    once = {"ok", "empty", "refusal", "filtered", "overflow", "overflow_vllm"}
    if kind.startswith("limited"):
        assert 5 <= tries <= 60
        assert "rejected" in done.failure.detail
    else:
        assert tries == (1 if kind in once else 3 if kind == "hang" else 4)


def test_backoff_grows_with_reproducible_jitter(
    simulate: Callable[..., Any], requests: Callable[..., list[Request]]
) -> None:
    waits = []
    for _ in range(2):
        sim = simulate(Script(faults={"error": 1.0}), attempts=6)
        sim.run(requests(1))
        starts = sim.transport.starts
        waits.append([b - a for a, b in itertools.pairwise(starts)])
    assert waits[0] == pytest.approx(waits[1])
    for number, wait in enumerate(waits[0]):
        assert 0.25 * 2**number <= wait <= 0.5 * 2**number
    retry = Retry()
    assert len({retry.delay(f"call {n}", 1) for n in range(50)}) == 50


def test_retry_after_is_respected(
    simulate: Callable[..., Any], requests: Callable[..., list[Request]]
) -> None:
    script = Script(phases=[Phase(0, 5, "limited_after")], retry_after=7.0)
    sim = simulate(script)
    sim.run(requests(1))
    assert len(sim.transport.starts) == 2
    assert 7.0 <= sim.transport.starts[1] <= 7.7


def test_sixty_seconds_of_429_lose_no_call_and_the_rate_recovers(
    simulate: Callable[..., Any], requests: Callable[..., list[Request]]
) -> None:
    script = Script(latency=1.0, capacity=100, phases=[Phase(30, 90, "limited")])
    sim = simulate(script)
    sim.run(requests(9000))
    assert sim.error is None
    assert all(done.failure is None for done in sim.answers.values())

    def rate(start: float, end: float) -> float:
        return sum(start <= at < end for at in sim.ended) / (end - start)

    before = rate(20, 30)
    assert before > 60
    assert rate(32, 90) == 0
    # At the latest 60 s after the end of the outage.
    assert rate(100, 150) >= 0.8 * before
    assert sim.dispatcher.attempts <= 1.3 * 9000


@pytest.mark.parametrize("calls", [4000, pytest.param(20_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("script", [Script(latency=1.0, capacity=200), Script(latency=1.0, slots=150)], ids=["429", "queue"])  # fmt: skip
def test_the_adaptive_level_is_nearly_as_good_as_the_best_fixed_one(
    simulate: Callable[..., Any],
    requests: Callable[..., list[Request]],
    script: Script,
    calls: int,
) -> None:
    asked = requests(calls)
    fixed = simulate(script, script.capacity or script.slots).run(asked)
    assert fixed == pytest.approx(math.ceil(calls / (script.capacity or script.slots)), abs=0.1)
    adaptive = simulate(script).run(asked)
    assert adaptive <= (1.15 if calls >= 20_000 else 1.4) * fixed, adaptive / fixed


def test_a_server_of_few_slots_is_not_flooded(
    simulate: Callable[..., Any], requests: Callable[..., list[Request]]
) -> None:
    sim = simulate(Script(latency=1.0, slots=4))
    assert sim.run(requests(400)) == pytest.approx(100, abs=1)
    assert sim.limiter.level == 20
    assert sim.plan.most_in_flight <= 40


@pytest.mark.parametrize("kind", ["unauthorized", "forbidden", "no_quota", "unknown_model"])
def test_a_permanent_fault_ends_the_run_within_three_calls_and_the_running_ones(
    simulate: Callable[..., Any], requests: Callable[..., list[Request]], kind: str
) -> None:
    script = Script(latency=0.2, phases=[Phase(1.0, math.inf, kind)])
    sim = simulate(script, 16)
    sim.run(requests(500))
    assert sim.error is not None
    assert sim.error.exit_code == 5
    assert "3 consecutive calls failed" in str(sim.error)
    status = {"unauthorized": "401", "forbidden": "403", "no_quota": "quota", "unknown_model": "404"}  # fmt: skip
    assert status[kind] in str(sim.error)
    assert sim.plan.counts[kind] <= 3 + 16
    assert sum(done.failure is None for done in sim.answers.values()) == sim.plan.counts["ok"]


class _OneByOne:
    """A transport whose running calls end when the test says so, in the order that it says."""

    def __init__(self) -> None:
        self.running: dict[str, asyncio.Future[Completion]] = {}
        self.started = 0

    async def call(self, request: Request) -> Completion:
        self.started += 1
        ended = asyncio.get_running_loop().create_future()
        self.running[request.sample_id] = ended
        return await ended

    async def end(self, name: str, outcome: Completion | CallError) -> None:
        """End a call, and let the dispatcher do all that follows."""
        ended = self.running.pop(name)
        if isinstance(outcome, CallError):
            ended.set_exception(outcome)
        else:
            ended.set_result(outcome)
        for _ in range(20):
            await asyncio.sleep(0)

    async def close(self) -> None: ...


def test_after_the_third_refusal_in_a_row_no_call_starts(
    requests: Callable[..., list[Request]],
) -> None:
    """An answer between two refusals, though its call began before them, begins the count again."""
    steps = [("s0", True, 13), ("s1", False, 14), ("s2", False, 15), ("s3", True, 16), ("s4", False, 17), ("s5", False, 18),
             ("s6", False, 18)]  # fmt: skip

    async def follow() -> None:
        calls = _OneByOne()
        dispatcher = Dispatcher(calls, Limiter(12), Retry(), Breaker("m"))
        kept: list[str] = []
        run = asyncio.ensure_future(
            dispatcher.run(Feed(requests(100)), lambda _, answer: kept.append(answer.text))
        )
        for _ in range(20):
            await asyncio.sleep(0)
        assert calls.started == 12
        for name, good, started in steps:
            await calls.end(name, Completion("yes") if good else from_status(401, "{}"))
            assert calls.started == started, name
        for name in tuple(calls.running):
            assert not run.done()
            await calls.end(name, Completion("paid"))
        assert kept.count("paid") == 11
        with pytest.raises(ModelError, match="3 consecutive calls failed"):
            await run
        assert dispatcher.attempts == 18

    asyncio.run(follow())


def test_three_refusals_at_once_start_no_call(requests: Callable[..., list[Request]]) -> None:
    """The loop reads all three before the calls that wait for a slot: these are cancelled before they begin."""

    async def follow() -> None:
        calls = _OneByOne()
        dispatcher = Dispatcher(calls, Limiter(12), Retry(), Breaker("m"))
        run = asyncio.ensure_future(dispatcher.run(Feed(requests(100)), lambda *_: None))
        for _ in range(20):
            await asyncio.sleep(0)
        for name in ("s0", "s1", "s2"):
            calls.running.pop(name).set_exception(from_status(401, "{}"))
        for name in tuple(calls.running):
            await calls.end(name, Completion("paid"))
        with pytest.raises(ModelError, match="3 consecutive calls failed"):
            await run
        assert calls.started == dispatcher.attempts == 12

    asyncio.run(follow())


def test_after_an_error_no_probe_of_a_rejected_request_starts(
    requests: Callable[..., list[Request]],
) -> None:
    """The second of two rejected calls waits for the probe of the first, which says nothing, and meanwhile the run ends."""

    async def follow() -> None:
        calls = _OneByOne()
        dispatcher = Dispatcher(calls, Limiter(3), Retry(), Breaker("m"))
        kept: dict[int, Completion] = {}
        run = asyncio.ensure_future(dispatcher.run(Feed(requests(9)), kept.__setitem__))
        for _ in range(20):
            await asyncio.sleep(0)
        first, second = calls.running.pop("s0"), calls.running["s1"]
        first.set_exception(from_status(400, "{}"))
        for _ in range(20):
            await asyncio.sleep(0)
        assert calls.started == 4
        await calls.end("s1", from_status(400, "{}"))
        assert second.done()
        dispatcher._runs[0].end(ModelError("another call"))
        await calls.end("s0", from_status(503, "{}"))
        assert calls.started == 4
        await calls.end("s2", Completion("paid"))
        with pytest.raises(ModelError, match="another call"):
            await run
        assert [str(kept[n].failure)[:11] for n in (0, 1)] == ["server: 400"] * 2
        assert kept[2].text == "paid"

    asyncio.run(follow())


def test_a_probe_that_was_stopped_before_it_started_is_no_error(
    requests: Callable[..., list[Request]],
) -> None:
    """A probe that waits for the budget when the user stops the run."""

    class Stopped(_OneByOne):
        async def call(self, request: Request) -> Completion:
            self.started += 1
            if self.started == 1:
                raise from_status(400, "{}")
            dispatcher._runs[0].end()
            raise NotStartedError

    dispatcher = Dispatcher(Stopped(), Limiter(1), Retry(), Breaker("m"))
    kept: dict[int, Completion] = {}
    asyncio.run(dispatcher.run(Feed(requests(9)), kept.__setitem__))
    assert [str(answer.failure)[:11] for answer in kept.values()] == ["server: 400"]


@pytest.mark.parametrize("concurrency", [1, 16])
def test_after_an_error_the_same_engine_has_all_its_slots(
    simulate: Callable[..., Any], requests: Callable[..., list[Request]], concurrency: int
) -> None:
    """A call that is cancelled before its first step returns its slot."""
    sim = simulate(Script(faults={"unauthorized": 1.0}), concurrency)
    sim.run(requests(60))
    assert "3 consecutive calls failed" in str(sim.error)
    refused = sim.plan.counts["unauthorized"]
    sim.plan.script = Script(latency=1.0)
    sim.plan.most_in_flight = 0
    sim.answers.clear()
    sim.run(requests(60))
    assert sim.plan.counts == {"unauthorized": refused, "ok": 60}
    assert sim.plan.most_in_flight == concurrency


def test_two_consecutive_failures_do_not_end_the_run(
    simulate: Callable[..., Any], requests: Callable[..., list[Request]]
) -> None:
    sim = simulate(Script(seed=1, faults={"unauthorized": 0.2}), 1)
    sim.run(requests(60))
    assert sim.error is None
    failed = [done.failure.kind for done in sim.answers.values() if done.failure]
    assert len(failed) >= 10  # two consecutive ones twice
    assert set(failed) == {"server"}


def test_fewer_than_three_calls_that_all_fail_end_the_run_too(
    simulate: Callable[..., Any], requests: Callable[..., list[Request]]
) -> None:
    sim = simulate(Script(faults={"unauthorized": 1.0}))
    sim.run(requests(1))
    assert "every call failed, the last with: 401" in str(sim.error)


def test_without_any_answer_the_run_ends_and_after_one_it_tolerates_more_failures(
    simulate: Callable[..., Any], requests: Callable[..., list[Request]]
) -> None:
    sim = simulate(Script(faults={"html": 1.0}), attempts=2)
    sim.run(requests(100))
    assert "3 consecutive calls failed" in str(sim.error)
    assert sum(sim.plan.counts.values()) <= 2 * (20 + 3)
    good = simulate(Script(phases=[Phase(0.5, math.inf, "html")], latency=0.2), 5, attempts=2)
    good.run(requests(34))
    assert good.error is None
    assert 15 < sum(done.failure is not None for done in good.answers.values()) < 20
    down = simulate(Script(phases=[Phase(0.5, math.inf, "html")], latency=0.2), 5, attempts=2)
    down.run(requests(400))
    assert "20 consecutive calls failed" in str(down.error)


def test_a_server_that_asks_to_wait_a_day_is_an_error(
    simulate: Callable[..., Any], requests: Callable[..., list[Request]]
) -> None:
    sim = simulate(Script(faults={"limited_after": 1.0}, retry_after=86400.0))
    assert sim.run(requests(100)) < 60
    assert "the server asks to wait 86400 s" in str(sim.error)


def test_a_server_that_always_rejects_ends_the_run_when_patience_ends(
    simulate: Callable[..., Any], requests: Callable[..., list[Request]]
) -> None:
    sim = simulate(Script(latency=0.2, phases=[Phase(3.0, math.inf, "limited")]), patience=300.0)
    assert 290 < sim.run(requests(20_000)) < 330
    assert "429" in str(sim.error)
    assert sum(done.failure is None for done in sim.answers.values()) == sim.plan.counts["ok"]
    assert sim.plan.counts["limited"] < 1500


def test_once_stopped_no_attempt_starts_and_running_ones_complete(
    simulate: Callable[..., Any], requests: Callable[..., list[Request]]
) -> None:
    sim = simulate(Script(latency=1.0, faults={"error": 0.3}), 10)
    sim.stopped_at = 5.5
    assert sim.run(requests(500)) < 40
    assert max(sim.transport.starts) < 5.5
    answered = sum(done.failure is None for done in sim.answers.values())
    assert answered == sim.plan.counts["ok"] > 20
    assert sim.plan.in_flight == 0


class _Blocking:
    """A transport that answers once the test releases it."""

    def __init__(self) -> None:
        self.started = threading.Semaphore(0)
        self.cancelled = 0
        self.closed = False
        self.hold = True

    async def call(self, request: Request) -> Completion:
        self.started.release()
        try:
            if self.hold and request.sample_id != "s0":
                await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if request.sample_id == "s7":
            raise CallError("refused", "no")
        return Completion(request.sample_id)

    async def close(self) -> None:
        self.closed = True


def test_the_engine_streams_cancels_and_restarts(
    requests: Callable[..., list[Request]],
) -> None:
    blocking = _Blocking()
    before = threading.active_count()
    engine = Engine(lambda: Dispatcher(blocking, Limiter(5), Retry(), Breaker("m")), blocking.close)
    stream = engine.stream(requests(9))
    first = next(stream)
    assert first is not None
    assert first[1].text == "s0"
    for _ in range(6):
        blocking.started.acquire(timeout=10)
    stream.close()  # type: ignore[attr-defined]
    assert blocking.cancelled == 5
    blocking.hold = False
    answers = dict(filter(None, engine.stream(requests(9))))
    assert [answers[n].text for n in range(9)] == [f"s{n}" if n != 7 else "" for n in range(9)]
    assert answers[7].failure is not None
    assert engine.tally().calls == 10
    assert threading.active_count() == before + 1
    engine.close()
    assert blocking.closed
    assert threading.active_count() == before
    assert len(list(filter(None, engine.stream(requests(2))))) == 2
    engine.close()


def test_answers_of_running_calls_are_delivered_before_an_error(
    requests: Callable[..., list[Request]],
) -> None:
    """The last of four running calls answers after three others have failed; no further call starts."""

    class Revoked(_Blocking):
        failed = 0
        started_calls = 0

        async def call(self, request: Request) -> Completion:
            self.started_calls += 1
            if request.sample_id == "s0":
                await failed.wait()
                for _ in range(20):  # turns of the loop, in which the error becomes known
                    await asyncio.sleep(0)
                return Completion("paid")
            self.failed += 1
            if self.failed == 3:
                failed.set()
            raise from_status(401, json.dumps({"error": {"message": "no", "code": "bad_key"}}))

    failed = asyncio.Event()
    revoked = Revoked()
    engine = Engine(lambda: Dispatcher(revoked, Limiter(4), Retry(), Breaker("m")), revoked.close)
    got = []
    with pytest.raises(ModelError, match="m: 3 consecutive calls failed"):
        got.extend(filter(None, engine.stream(requests(30))))
    assert "paid" in [done.text for _, done in got]
    assert revoked.started_calls == 4
    engine.close()


@pytest.mark.parametrize("by", ["the user", "an error"])
def test_calls_that_wait_for_another_attempt_end_at_once(
    simulate: Callable[..., Any], requests: Callable[..., list[Request]], by: str
) -> None:
    """A call that was told to wait a minute is not running, so nobody waits for it."""
    script = Script(latency=0.2, faults={"limited_after": 1.0}, retry_after=60.0)
    sim = simulate(script, 8)
    if by == "the user":
        sim.stopped_at = 1.0
    else:
        sim.loop.call_later(1.0, lambda: sim.dispatcher._runs[0].end(ModelError("another call")))
    assert sim.run(requests(8)) < 1.5
    assert len(sim.transport.starts) == 8
    assert str(sim.error) == ("None" if by == "the user" else "another call")


def test_answers_before_an_error_are_delivered(
    requests: Callable[..., list[Request]],
) -> None:
    class Locked(_Blocking):
        async def call(self, request: Request) -> Completion:
            if request.sample_id == "s0":
                return Completion("kept")
            raise from_status(401, json.dumps({"error": {"message": "no", "code": "bad_key"}}))

    locked = Locked()
    engine = Engine(lambda: Dispatcher(locked, Limiter(1), Retry(), Breaker("m")), locked.close)
    got = []
    with pytest.raises(ModelError, match="m: 3 consecutive calls failed, the last with: 401 bad_key: no"):  # fmt: skip
        got.extend(filter(None, engine.stream(requests(30))))
    # extend keeps the items before the error
    assert [done.text for _, done in got][:1] == ["kept"]
    assert len(got) == 3
    engine.close()
