"""Several servers with one model: least loaded first, a dead one is left alone and taken back, and nothing else changes."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nfilter import Completion, Request
from nfilter_litellm.breaker import Breaker
from nfilter_litellm.dispatcher import Dispatcher
from nfilter_litellm.failures import CallError, broken, from_status, off_schema, timed_out
from nfilter_litellm.feed import Feed
from nfilter_litellm.limiter import Limiter
from nfilter_litellm.pace import Pace, Paces
from nfilter_litellm.replicas import ReplicaTransport
from nfilter_litellm.retry import Retry
from tests.model_server.faults import Phase, Script
from tests.model_server.server import ModelProcess, ModelServer
from tests.plugins.nfilter_litellm.conftest import VirtualLoop


class FakeServer:
    """A server that takes ``latency`` seconds per call, or raises ``fault``."""

    def __init__(self, latency: float = 1.0) -> None:
        self.latency = latency
        self.fault: Callable[[], CallError] | None = None
        self.alive = True
        self.calls = 0
        self.checks = 0
        self.running = self.most = 0

    async def call(self, request: Request) -> Completion:
        self.calls += 1
        if self.fault is not None:
            raise self.fault()
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(self.latency)
        self.running -= 1
        return Completion("yes")

    async def answers(self) -> bool:
        self.checks += 1
        return self.alive

    async def close(self) -> None:
        pass


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    made = VirtualLoop()
    yield made
    made.close()


def pool(*servers: FakeServer) -> ReplicaTransport:
    return ReplicaTransport([(f"http://s{n}/v1", server) for n, server in enumerate(servers)])


ASK = Request(())


async def ask(transport: ReplicaTransport) -> str:
    try:
        return (await transport.call(ASK)).text
    except CallError as error:
        return error.detail


async def ask_all(transport: ReplicaTransport, calls: int, slots: int) -> None:
    """Make as many calls, ``slots`` at a time."""
    waiting = asyncio.Semaphore(slots)

    async def one() -> None:
        async with waiting:
            await transport.call(ASK)

    await asyncio.gather(*(one() for _ in range(calls)))


def test_a_call_goes_to_the_server_with_the_fewest_running(loop: VirtualLoop) -> None:
    one, other = FakeServer(1.0), FakeServer(1.0)
    loop.run_until_complete(ask_all(pool(one, other), 100, slots=8))
    assert one.most == other.most == 4
    assert (one.calls, other.calls) == (50, 50)


@pytest.mark.parametrize(
    ("latencies", "slots", "seconds"),
    [
        # By the fewest running: 200 s, 240 s, 180 s and 961 s. All at the quick ones: 125 s, 125 s, 125 s and 500 s.
        ((1.0, 4.0), 8, 150),
        ((1.0, 20.0), 8, 150),
        ((1.0, 1.0, 1.0, 20.0), 8, 140),
        ((1.0, 1.0, 1.0, 20.0), 2, 550),
        # Five places at each, of which four are needed: no server is slow.
        ((1.0, 1.1, 0.9), 12, 90),
    ],
)
def test_a_slow_server_holds_few_of_the_slots(
    loop: VirtualLoop, latencies: tuple[float, ...], slots: int, seconds: float
) -> None:
    servers = [FakeServer(each) for each in latencies]
    loop.run_until_complete(ask_all(pool(*servers), 1000, slots))
    assert loop.time() < seconds
    # No call is made at two servers.
    assert sum(each.calls for each in servers) == 1000
    assert min(each.calls for each in servers) > 0


@pytest.mark.parametrize(
    ("alive", "calls"),
    [
        (False, 4),  # those that began before anything was known, half of the slots
        (
            True,
            8,
        ),  # and one after each pause, which is as long as a call: at 240 s, 480 s, 720 s and 960 s
    ],
)
def test_a_server_that_does_not_answer_gets_few_calls_after_its_first_ones(
    loop: VirtualLoop, alive: bool, calls: int
) -> None:
    """``alive``: it tells its models all the same."""
    hung, good = FakeServer(), FakeServer(1.0)
    hung.alive = alive

    async def call(request: Request) -> Completion:
        hung.calls += 1
        await asyncio.sleep(120)
        raise timed_out(120)

    hung.call = call  # type: ignore[method-assign]
    answers = answered_by(loop, hung, good, calls=8000)
    assert [each.failure for each in answers.values()] == [None] * 8000
    assert (hung.calls, good.calls) == (calls, 8000)
    # 8000 s of answers and the calls that were given up, in 8 slots; the last one may end alone.
    assert -0.01 < loop.time() - (8000 + 120 * calls) / 8 < 30


def test_a_call_that_was_given_up_counts_as_slow_and_one_that_failed_does_not() -> None:
    paces, quick, odd = Paces(), Pace(), Pace()
    for ends in (1.0, 2.0, 3.0):
        paces.start(quick, ends - 1)
        paces.end(quick, ends, 1.0, answered=True, slow=False)
    for slow, chosen in ((False, odd), (True, quick)):
        paces.start(odd, 3.0)
        paces.end(odd, 13.0, 10.0, answered=False, slow=slow)
        paces.start(quick, 13.0)
        # The other one has nothing to do.
        assert paces.least_loaded([quick, odd], 13.0) is chosen
        paces.end(quick, 13.0, 0.0, answered=False, slow=False)
        odd.at = quick.at = 3.0


def test_a_server_that_was_slow_gets_its_share_again(loop: VirtualLoop) -> None:
    """As one that loads its model at its first calls."""
    good, slow = FakeServer(1.0), FakeServer(20.0)

    async def work() -> list[int]:
        transport = pool(good, slow)
        await ask_all(transport, 200, slots=8)
        slow.latency = 1.0
        shares = []
        for _ in range(6):
            before = slow.calls
            await ask_all(transport, 80, slots=8)
            shares.append(slow.calls - before)
        return shares

    shares = loop.run_until_complete(work())
    assert shares[0] < 40
    assert shares[-1] == 40


def test_the_pace_of_a_server_has_running_calls_and_forgets_old_ones() -> None:
    pace = Pace(running=2)
    pace.advance(10.0, memory=1e9)
    assert pace.seconds == pytest.approx(20.0, rel=1e-6)
    pace.running, pace.answers = 0, 4.0
    pace.advance(40.0, memory=30.0)
    assert pace.seconds == pytest.approx(20.0 / math.e, rel=1e-6)
    assert pace.answers == pytest.approx(4.0 / math.e, rel=1e-6)


def test_idle_servers_take_turns(loop: VirtualLoop) -> None:
    servers = [FakeServer() for _ in range(3)]

    async def work() -> None:
        transport = pool(*servers)
        for _ in range(9):
            await transport.call(ASK)

    loop.run_until_complete(work())
    assert [each.calls for each in servers] == [3, 3, 3]


def test_a_server_that_cannot_be_reached_is_left_alone_and_taken_back(loop: VirtualLoop) -> None:
    dead, good = FakeServer(0.1), FakeServer(0.1)
    dead.fault, dead.alive = lambda: broken("refused", may_be_billed=False), False

    async def work() -> list[str]:
        transport = pool(dead, good)
        said = [await ask(transport) for _ in range(40)]
        dead.fault, dead.alive = None, True
        await asyncio.sleep(60)
        said += [await ask(transport) for _ in range(10)]
        await transport.close()
        return said

    said = loop.run_until_complete(work())
    assert said.count("refused (at http://s0/v1)") == 1
    assert said.count("yes") == 49
    assert 4 <= dead.calls - 1 <= 5
    # Asked after 1 s and after 2 s more, not before each call.
    assert 2 <= dead.checks <= 4


def test_three_faults_in_a_row_count_and_one_answer_forgives_them(loop: VirtualLoop) -> None:
    odd, good = FakeServer(), FakeServer()
    faults = iter("FFSFFFSSS")

    async def work() -> None:
        transport = pool(odd, good)
        for _ in range(6):
            odd.fault = (lambda: from_status(500, "oops")) if next(faults) == "F" else None
            good.calls = 0
            while not good.calls:  # until it is the other one's turn
                await ask(transport)

    loop.run_until_complete(work())
    assert odd.calls == 6


def test_a_server_that_asks_to_wait_is_left_alone_for_as_long(loop: VirtualLoop) -> None:
    busy, good = FakeServer(), FakeServer()
    busy.fault = lambda: from_status(429, "slow down", 7.0)

    async def work() -> int:
        transport = pool(busy, good)
        await ask(transport)
        for _ in range(6):
            await ask(transport)
        return busy.checks

    assert loop.run_until_complete(work()) == 0
    assert (busy.calls, good.calls) == (1, 6)


@pytest.mark.parametrize("status", [429, 503])
def test_a_call_does_not_wait_for_one_server_while_another_is_ready(
    loop: VirtualLoop, status: int
) -> None:
    """One server asks to wait for an hour, which is longer than a call waits at most."""
    busy, good = FakeServer(), FakeServer()
    busy.fault = lambda: from_status(status, "slow down", 3600.0)
    dispatcher = Dispatcher(pool(busy, good), Limiter(4), Retry(), Breaker("m"))
    answers: dict[int, Completion] = {}
    loop.run_until_complete(dispatcher.run(Feed([ASK] * 12), answers.__setitem__))
    assert [each.failure for each in answers.values()] == [None] * 12
    assert (busy.calls, good.calls) == (1, 12)
    assert loop.time() < 60
    # Where no other server is ready, the wish of the last one counts.
    good.fault = busy.fault
    loop.run_until_complete(dispatcher.run(Feed([ASK]), answers.__setitem__))
    assert "asks to wait 3600 s" in str(answers[0].failure)


def test_where_all_pause_the_first_to_open_is_tried(loop: VirtualLoop) -> None:
    servers = [FakeServer(), FakeServer()]
    for each in servers:
        each.fault, each.alive = lambda: broken("refused", may_be_billed=False), False

    async def work() -> list[str]:
        transport = pool(*servers)
        return [await ask(transport) for _ in range(4)]

    assert Counter(loop.run_until_complete(work())) == {
        "refused (at http://s0/v1)": 2,
        "refused (at http://s1/v1)": 2,
    }


def answered_by(
    loop: VirtualLoop, *servers: FakeServer, calls: int, level: int = 8
) -> dict[int, Completion]:
    """The answers to as many calls, each with the engine's retries, at most ``level`` at a time."""
    dispatcher = Dispatcher(pool(*servers), Limiter(level), Retry(), Breaker("m"))
    answers: dict[int, Completion] = {}
    loop.run_until_complete(dispatcher.run(Feed([ASK] * calls), answers.__setitem__))
    return answers


def test_a_server_that_sends_something_else_at_once_does_not_take_the_calls(
    loop: VirtualLoop,
) -> None:
    """It is always the least loaded one, and its list of models is fine."""
    odd, good = FakeServer(0.0), FakeServer(1.0)
    odd.fault = lambda: off_schema("no choices")
    answers = answered_by(loop, odd, good, calls=800)
    assert [each.failure for each in answers.values()] == [None] * 800
    # 100 s: pauses of 1 s, 2 s, 4 s and so on, each after one call, and three calls before the first.
    assert loop.time() < 110
    assert odd.calls <= 3 + 8 + 7


def test_calls_that_ran_when_a_server_ended_make_one_pause(loop: VirtualLoop) -> None:
    """A server that is started again within a second is back after one."""
    dead, good = FakeServer(0.5), FakeServer(0.5)

    async def fails(request: Request) -> Completion:
        dead.calls += 1
        await asyncio.sleep(0.5)
        raise broken("the connection was reset")

    async def work() -> int:
        transport = pool(dead, good)
        whole = dead.call
        dead.call = fails  # type: ignore[method-assign]
        await asyncio.gather(*(ask(transport) for _ in range(40)))
        dead.call = whole  # type: ignore[method-assign]
        before = dead.calls
        await asyncio.sleep(1.1)
        for _ in range(4):
            await ask(transport)
        await transport.close()
        return dead.calls - before

    assert loop.run_until_complete(work()) >= 1
    assert dead.checks == 1


def test_after_a_pause_one_call_tries_the_server(loop: VirtualLoop) -> None:
    back, good = FakeServer(0.5), FakeServer(0.5)
    back.fault = lambda: broken("refused", may_be_billed=False)

    async def work() -> list[int]:
        transport = pool(back, good)
        await asyncio.gather(*(ask(transport) for _ in range(2)))
        back.fault = None
        await asyncio.sleep(1.1)
        await ask(transport)  # begins the check
        most = []
        for _ in range(2):
            back.most = 0
            await asyncio.gather(*(ask(transport) for _ in range(12)))
            most.append(back.most)
        await transport.close()
        return most

    one, then = loop.run_until_complete(work())
    assert (one, then) == (1, 6)


def test_a_dying_a_busy_a_slow_and_a_senseless_server_lose_no_answer(
    backend: Callable[..., Any], requests: Callable[..., list[Request]]
) -> None:
    asked = requests(400)
    with ModelServer() as alone:
        wanted = [each.text for each in backend(alone.url).generate(asked)]
    busy = Script(latency=0.002, phases=[Phase(20, 60, "unavailable")], by_calls=True)
    with (
        ModelServer(Script(latency=0.002)) as good,
        ModelProcess(latency=0.002) as dying,
        ModelServer(busy) as sometimes,
        ModelServer(Script(latency=0.2)) as slow,
        ModelServer(Script(faults={"off_schema": 1.0})) as senseless,
    ):
        others = [each.url for each in (dying, sometimes, slow, senseless)]
        model = backend(good.url, replicas=others)
        got: dict[int, Completion] = {}
        for answer in model.stream(asked):
            if answer is not None:
                got[answer[0]] = answer[1]
            if len(got) == 100:
                dying.kill()
        model.close()
    assert [got[number].failure for number in range(400)] == [None] * 400
    assert [got[number].text for number in range(400)] == wanted
    assert sometimes.plan.counts["unavailable"] > 0
    assert slow.plan.counts["ok"] < good.plan.counts["ok"]
    assert senseless.plan.counts["off_schema"] < 40
