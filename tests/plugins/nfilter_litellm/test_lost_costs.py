"""Attempts of calls that end without an answer are paid for, and count when the run is resumed, however it ended."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from nfilter import (
    Budget,
    BudgetError,
    Completion,
    Message,
    ModelError,
    Price,
    Request,
    Sampling,
    Site,
)
from nfilter.api.interrupt import Interrupt
from nfilter.models.proxy import JournaledModel
from nfilter.store.journal import Journal
from nfilter_litellm.backend import LiteLLMBackend
from nfilter_litellm.batch_ledger import Ledger, Pending
from nfilter_litellm.config import LiteLLMConfig
from nfilter_litellm.retry import Retry
from tests.model_server.batches import BatchScript
from tests.model_server.faults import Script
from tests.model_server.server import ModelServer
from tests.plugins.nfilter_litellm.batch_calls import when

ROWS = 40
CALLS = 4  # at the same time
TOKENS = 8
PRICE = {"prompt": 0.0, "completion": 1e6}  # a call may cost 8 dollars, and so does an answer
DOLLARS = Price(0.0, 1.0)
BILLED = ("ok", "error")  # the model may have run before the server failed


class Bench:
    """A model at a server, over several runs in one folder; every run has a budget of its own, as every process has."""

    def __init__(self, home: Path, server: ModelServer) -> None:
        self.home, self.server = home, server
        self.budget = Budget()
        self.interrupt = Interrupt()
        self.paid: list[float] = []

    @contextmanager
    def run(self, cap: float = 1e9, **settings: Any) -> Iterator[JournaledModel]:
        """A run; at its end, all that its budget counts is in the journal."""
        journal = Journal(self.home / "journal.db")
        self.budget, self.interrupt = Budget(cap), Interrupt()
        self.budget.paid_before(journal.usd())
        site = Site(
            self.home, budget=self.budget, interrupt=self.interrupt, state_dir=self.home / "state"
        )
        config = {"concurrency": CALLS, "price": PRICE, **settings}
        backend = LiteLLMBackend(
            LiteLLMConfig.model_validate({"model": "m", "api_base": self.server.url, **config}),
            site,
        )
        try:
            yield JournaledModel(
                "m", backend, "m", journal, "a", interrupt=self.interrupt, budget=self.budget
            )
        finally:
            backend.close()
            self.paid.append(journal.usd())
            journal.close()
        assert self.budget.held == 0
        assert journal_of(self.home) == pytest.approx(self.budget.spent)

    def stop(self) -> None:
        """Stop the run that is going on, as a first Ctrl-C does."""
        self.interrupt._requested.set()

    def billed(self) -> float:
        """The dollars that a provider may bill: 8 tokens for each answer and for each attempt that a server failed."""
        kinds = [kind for served in self.server.plan.served.values() for kind in served]
        return sum(8.0 for kind in kinds if kind in BILLED)


def journal_of(home: Path) -> float:
    journal = Journal(home / "journal.db")
    try:
        return journal.usd()
    finally:
        journal.close()


def answers(made: Bench) -> int:
    """The number of answers in the journal, which a run is writing."""
    with closing(sqlite3.connect(made.home / "journal.db")) as journal:
        (count,) = journal.execute("SELECT count(*) FROM calls").fetchone()
    return int(count)


def full(_: object) -> Completion:
    return Completion("a b c d e f g h")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Bench]]:
    monkeypatch.setattr(
        "nfilter_litellm.backend.Retry", lambda attempts: Retry(attempts, 2.0, 0.002)
    )
    servers: list[ModelServer] = []

    def make(batches: BatchScript | None = None, **script: Any) -> Bench:
        servers.append(ModelServer(Script(answer=full, **script), batches=batches))
        return Bench(tmp_path, servers[-1].__enter__())

    yield make
    for server in servers:
        server.__exit__(None, None, None)


def requests(n: int = ROWS) -> list[Request]:
    return [
        Request((Message("user", f"q{i:02}"),), Sampling(max_tokens=TOKENS), sample_id=f"s{i}")
        for i in range(n)
    ]


WAYS = ["generate", "converse"]


def ask(model: JournaledModel, way: str, n: int = ROWS) -> object:
    if way == "generate":
        return model.generate(requests(n))
    return model.converse(requests(n), lambda *_: None)


@pytest.mark.parametrize("way", WAYS)
def test_the_budget_holds_over_runs_that_end_at_it(bench: Callable[..., Bench], way: str) -> None:
    """Half of all attempts fail and are paid for; each run ends while other calls wait for another attempt."""
    made = bench(faults={"error": 0.5}, seed=5)
    for _ in range(4):
        with made.run(cap=200.0) as model, pytest.raises(BudgetError):
            ask(model, way)
    assert made.server.plan.counts["error"] > 5
    assert made.paid[0] > 200 - 8
    assert made.billed() == made.paid[-1] <= 200


@pytest.mark.parametrize("way", WAYS)
def test_the_attempts_of_a_server_that_is_down_count(bench: Callable[..., Bench], way: str) -> None:
    made = bench(faults={"error": 1.0})
    for _ in range(2):
        with made.run(attempts=2) as model, pytest.raises(ModelError, match="consecutive calls"):
            ask(model, way)
    # Every attempt is counted once: those of the calls that ended the run, and those of the others.
    assert made.billed() == made.paid[-1] > made.paid[0] > 0


@pytest.mark.parametrize("way", WAYS)
def test_after_an_interrupt_calls_that_wait_for_another_attempt_are_paid_for(
    bench: Callable[..., Bench], way: str
) -> None:
    made = bench(faults={"error": 1.0})
    with made.run(attempts=20) as model:
        when(lambda: made.server.plan.counts["error"] >= 5, made.stop)
        with pytest.raises(KeyboardInterrupt):
            ask(model, way)
    assert made.billed() == made.paid[-1] >= 40


def test_an_error_of_the_stage_loses_no_cost(bench: Callable[..., Bench]) -> None:
    """The first answer ends the run, while other calls wait for another attempt."""
    first = threading.Event()
    made = bench(
        held=lambda text: first if text == "q00" else None,
        faults={"error": 1.0},
    )

    def fails(number: int, completion: Completion) -> None:
        raise RuntimeError("the stage fails")

    made.server.plan._kind = (  # type: ignore[method-assign]
        lambda text, _: "ok" if text == "q00" else "error"
    )
    when(lambda: made.server.plan.counts["error"] >= 6, first.set)
    with made.run(attempts=20) as model, pytest.raises(RuntimeError, match="the stage fails"):
        model.converse(requests(), fails)
    assert made.billed() == made.paid[-1] >= 7 * 8


@pytest.mark.parametrize("way", WAYS)
def test_calls_abandoned_by_a_second_interrupt_count_at_their_maximum(
    bench: Callable[..., Bench], way: str
) -> None:
    """Two calls are answered, and four run when the user presses Ctrl-C twice."""
    never = threading.Event()
    made = bench(held=lambda text: None if text in ("q00", "q01") else never)

    def press() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        when(lambda: made.interrupt.requested, lambda: os.kill(os.getpid(), signal.SIGINT))

    try:
        with made.run() as model, made.interrupt.installed(lambda _: None):
            when(lambda: len(made.server.plan.served) == 2 + CALLS and answers(made) == 2, press)
            with pytest.raises(KeyboardInterrupt):
                ask(model, way)
    finally:
        never.set()
    assert made.paid[-1] == (2 + CALLS) * 8
    with made.run() as model:
        ask(model, way)
    assert made.paid[-1] == (ROWS + CALLS) * 8


def test_a_shared_fault_of_one_of_several_servers_costs_what_its_reply_costs(
    bench: Callable[..., Bench],
) -> None:
    """A wrong key is not billed; a reply without log-probabilities is, by its count."""
    made = bench(faults={"unauthorized": 1.0})
    with ModelServer(Script(answer=full)) as other:
        settings = {"replicas": [other.url], "concurrency": 1}
        with made.run(**settings) as model, pytest.raises(ModelError, match="one of several"):
            model.generate(requests())
    assert made.paid[-1] == other.plan.counts["ok"] * 8


def test_failed_lines_of_a_batch_are_paid_once_if_the_run_stops_before_their_next_batch_ends(
    bench: Callable[..., Bench],
) -> None:
    """Line 0 fails in the first batch and is in the second one, which stays on the server after the first interrupt."""
    made = bench(batches=BatchScript())
    plan = made.server.plan
    kinds = iter(["error"])
    plan._kind = lambda text, _: next(kinds, "ok") if text == "q00" else "ok"  # type: ignore[method-assign]
    batches = made.server.batches

    def second_stays() -> None:
        batches.script = BatchScript(looks=10**9)

    when(lambda: plan.counts["error"] == 1, second_stays)
    when(lambda: len(batches.made) == 2 and batches.looked > 2, made.stop)
    with suppress(KeyboardInterrupt), unsettled(made), made.run(batch=True) as model:
        model.generate(requests(3))
    assert len(batches.made) == 2
    assert (
        made.paid[-1] == 3 * 8
    )  # two answers and the failed line; the second batch is not read yet
    batches.script = BatchScript()
    with made.run(batch=True) as model:
        assert all(done.text for done in model.generate(requests(3)))
    assert len(batches.made) == 2
    assert made.billed() == made.paid[-1] == 4 * 8


@contextmanager
def unsettled(made: Bench) -> Iterator[None]:
    """A batch that stays on the server is held at its maximum by the budget, and is paid for when it is read."""
    with suppress(AssertionError):
        yield
    assert made.budget.spent == made.paid[-1] + 8


def test_the_last_batch_of_a_call_counts_also_if_the_clock_went_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Ledger(tmp_path).record(Pending("first", "f", "b", 1, ("x", "y")))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 3600)
    again = Ledger(tmp_path)
    again.resume(["x"])
    again.record(Pending("second", "g", "c", 2, ("x",)))
    (resumed,) = Ledger(tmp_path).resume(["x"])
    assert resumed.name == "second"
