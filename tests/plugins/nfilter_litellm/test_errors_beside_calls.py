"""An error in one conversation while calls of others run: their answers are kept, and no call starts.

Replies of the servers are held until the error has been handled, so that the counts do not depend on time.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from nfilter import Agent, Budget, Message, ModelError, Request, Sampling, Site, run_agents
from nfilter.api.interrupt import Interrupt, Interrupted
from nfilter.models.proxy import JournaledModel
from nfilter.store.journal import Journal
from nfilter_litellm.backend import LiteLLMBackend
from nfilter_litellm.config import LiteLLMConfig
from tests.model_server.faults import Script
from tests.model_server.server import ModelServer
from tests.plugins.nfilter_litellm.batch_calls import when

CONCURRENCY = 4
ROWS = 10
TOKENS = 100  # dollars that a call may cost, nearly


class Handled(Interrupt):
    """Sets an event when an error is being handled."""

    def __init__(self) -> None:
        super().__init__()
        self.handled = threading.Event()

    @contextmanager
    def draining(self, cause: BaseException | None = None) -> Iterator[None]:
        with super().draining(cause):
            self.handled.set()
            yield


class Bench:
    """Two servers; ``far`` answers after the error was handled, ``near`` once all calls of ``far`` that may run are running."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.interrupt = Handled()
        self.running = threading.Event()
        self.budget = Budget()
        self.far = ModelServer(Script(held=lambda _: self.interrupt.handled))
        self.near = ModelServer(Script(held=lambda _: self.running))

    @contextmanager
    def models(self) -> Iterator[tuple[JournaledModel, JournaledModel]]:
        site = Site(self.home, budget=self.budget, interrupt=self.interrupt)
        journal = Journal(self.home / "journal.db")
        backends = [
            LiteLLMBackend(
                LiteLLMConfig(
                    model=name,
                    api_base=server.url,
                    concurrency=CONCURRENCY,
                    attempts=1,
                    price={"prompt": 0, "completion": 1e6},  # type: ignore[arg-type]
                ),
                site,
            )
            for name, server in (("far", self.far), ("near", self.near))
        ]
        try:
            far, near = (
                JournaledModel(name, each, name, journal, "a.stage", interrupt=self.interrupt)
                for name, each in zip(("far", "near"), backends, strict=True)
            )
            yield far, near
        finally:
            self.interrupt.handled.set()
            self.running.set()
            for each in backends:
                each.close()
            journal.close()

    def release_when(self, in_flight: int) -> threading.Thread:
        """Let ``near`` reply once ``in_flight`` calls of ``far`` are running."""

        def wait() -> None:
            while self.far.plan.in_flight < in_flight and not self.running.is_set():
                time.sleep(0.005)
            self.running.set()

        thread = threading.Thread(target=wait)
        thread.start()
        return thread

    def answered(self) -> int:
        """Return how many answers are in the journal."""
        journal = Journal(self.home / "journal.db")
        try:
            return sum(len(journal.calls_for(f"far {n}")) for n in range(ROWS))
        finally:
            journal.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    with made.far, made.near:
        yield made


def agents(name: str) -> list[Agent]:
    return [
        Agent(
            Request(
                (Message("user", f"{name} {n}"),),
                sampling=Sampling(max_tokens=TOKENS),
                sample_id=f"{name} {n}",
            )
        )
        for n in range(ROWS)
    ]


def fails(number: int, run: object) -> None:
    raise RuntimeError("the stage fails")


def never(number: int, run: object) -> None:
    return None


@pytest.mark.parametrize(
    ("kind", "again", "error"),
    [
        ("unauthorized", never, "401"),
        ("reset", never, "3 consecutive calls failed"),
        ("", fails, "the stage fails"),
    ],
    ids=["wrong key", "server down", "error of the stage"],
)
def test_running_calls_of_another_model_are_kept_at_any_error(
    bench: Bench, kind: str, again: Callable[..., None], error: str
) -> None:
    if kind:
        bench.near.plan.script = Script(held=lambda _: bench.running, faults={kind: 1.0})
    far_alone: Sequence[Agent] = agents("far")
    thread = bench.release_when(CONCURRENCY)
    with (
        bench.models() as (far, near),
        pytest.raises((ModelError, RuntimeError), match=error),
    ):
        run_agents([far] * ROWS + [near] * ROWS, [*far_alone, *agents("near")], again)
    thread.join()
    assert len(bench.far.plan.served) == CONCURRENCY, "a call began after the error"
    assert bench.answered() == CONCURRENCY
    bench.near.plan.script = Script()
    bench.near.plan.served.clear()
    with bench.models() as (far, near):
        runs = run_agents([far] * ROWS + [near] * ROWS, [*far_alone, *agents("near")])
    assert all(run.completion.text for run in runs)
    assert [len(kinds) for kinds in bench.far.plan.served.values()] == [1] * ROWS


def test_running_calls_of_the_same_model_are_kept_when_the_stage_fails(bench: Bench) -> None:
    bench.far.plan.script = Script(
        held=lambda text: bench.running if text == "far 0" else bench.interrupt.handled
    )
    thread = bench.release_when(CONCURRENCY)
    with bench.models() as (far, _), pytest.raises(RuntimeError, match="the stage fails"):
        run_agents(far, agents("far"), fails)
    thread.join()
    # The first answer leaves room for one call before the stage reads it.
    assert CONCURRENCY <= len(bench.far.plan.served) <= CONCURRENCY + 1
    assert bench.answered() == len(bench.far.plan.served)
    with bench.models() as (far, _):
        run_agents(far, agents("far"))
    assert [len(kinds) for kinds in bench.far.plan.served.values()] == [1] * ROWS


def test_calls_that_wait_for_the_budget_do_not_begin_after_an_error(bench: Bench) -> None:
    """Two calls fit at once; the others wait until these have settled for less, which is after the error."""
    bench.budget = Budget(2.5 * TOKENS)
    thread = bench.release_when(2)
    local = Failing(bench)
    with bench.models() as (far, _):
        model = JournaledModel("local", local, "l", far.journal, "a", interrupt=bench.interrupt)
        both = [*agents("far"), *agents("local")[:1]]
        with pytest.raises(ModelError, match="no weights"):
            run_agents([far] * ROWS + [model], both)
    thread.join()
    assert len(bench.far.plan.served) == 2
    assert bench.answered() == 2


class Failing:
    """A local model that fails once the calls of ``far`` are running."""

    name = "local"

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def generate(self, requests: Sequence[Request]) -> list[object]:
        assert self.bench.running.wait(60)
        raise ModelError("no weights")


def told(bench: Bench) -> list[str]:
    """Collect what the user is told; replies of ``far`` wait for the first sentence."""
    said: list[str] = []
    spoken = threading.Event()
    bench.far.plan.script = Script(held=lambda _: spoken)

    def say(text: str) -> None:
        said.append(text)
        spoken.set()

    bench.interrupt._say = say
    return said


ENDING = "the run ends because of an error: "
WAITS = "to keep their answers; press Ctrl-C to abandon them"


def test_while_an_error_waits_for_calls_of_another_model_it_is_told_at_once(bench: Bench) -> None:
    """The calls of ``far`` are answered when the user has been told; nothing else lets them end."""
    bench.near.plan.script = Script(held=lambda _: bench.running, faults={"unauthorized": 1.0})
    said = told(bench)
    thread = bench.release_when(CONCURRENCY)
    with bench.models() as (far, near), pytest.raises(ModelError) as raised:
        run_agents([far] * ROWS + [near] * ROWS, [*agents("far"), *agents("near")])
    thread.join()
    (text,) = said
    error, _, rest = text.removeprefix(ENDING).partition("; it waits for ")
    assert error == str(raised.value)
    # A call of the model with the wrong key may still be running.
    assert rest in [f"{n} running calls, {WAITS}" for n in (CONCURRENCY, CONCURRENCY + 1)]
    assert bench.answered() == CONCURRENCY
    assert len(bench.far.plan.served) == CONCURRENCY, "a call began after the error"


def test_while_an_error_waits_for_calls_of_the_same_model_it_is_told_at_once(bench: Bench) -> None:
    said = told(bench)
    held = bench.far.plan.script.held
    bench.far.plan.script = Script(held=lambda text: held(text) if text == "far 0" else None)
    bench.far.plan._kind = lambda text, _: "ok" if text == "far 0" else "unauthorized"  # type: ignore[method-assign]
    with bench.models() as (far, _), pytest.raises(ModelError, match="3 consecutive calls failed"):
        far.generate([agent.request for agent in agents("far")])
    assert len(said) == 1
    assert said[0].startswith(f"{ENDING}model 'far' at ")
    assert bench.answered() == 1


def test_an_error_of_the_stage_is_told_with_its_type(bench: Bench) -> None:
    said = told(bench)
    held = bench.far.plan.script.held
    bench.far.plan.script = Script(
        held=lambda text: bench.running if text == "far 0" else held(text)
    )
    thread = bench.release_when(CONCURRENCY)
    with bench.models() as (far, _), pytest.raises(RuntimeError, match="the stage fails"):
        run_agents(far, agents("far"), fails)
    thread.join()
    (text,) = said
    assert text.startswith(f"{ENDING}RuntimeError: the stage fails; it waits for ")


def test_an_error_that_waits_for_nothing_is_raised_without_words(bench: Bench) -> None:
    said = told(bench)
    with bench.models() as (far, _):
        local = JournaledModel("local", Gone(), "l", far.journal, "a", interrupt=bench.interrupt)
        with pytest.raises(ModelError, match="no weights"):
            run_agents(local, agents("local"))
    assert said == []


def test_while_an_error_waits_ctrl_c_ends_at_once(bench: Bench) -> None:
    """No reply of ``far`` comes."""
    bench.near.plan.script = Script(held=lambda _: bench.running, faults={"unauthorized": 1.0})
    never = threading.Event()
    bench.far.plan.script = Script(held=lambda _: never)
    thread = bench.release_when(CONCURRENCY)
    said: list[str] = []

    def press(text: str) -> None:
        said.append(text)
        when(lambda: bench.interrupt.requested, lambda: os.kill(os.getpid(), signal.SIGINT))

    both = [*agents("far"), *agents("near")]
    try:
        with (
            bench.models() as (far, near),
            bench.interrupt.installed(press),
            pytest.raises(KeyboardInterrupt) as raised,
        ):
            run_agents([far] * ROWS + [near] * ROWS, both)
    finally:
        never.set()
    thread.join()
    assert not isinstance(raised.value, Interrupted)
    assert len(said) == 1
    assert bench.budget.spent == CONCURRENCY * TOKENS


class Gone:
    """A local model without weights."""

    name = "local"

    def generate(self, requests: Sequence[Request]) -> list[object]:
        raise ModelError("no weights")
