"""A cap that no race exceeds, and journals that know what was paid."""

from __future__ import annotations

import random
import sqlite3
import threading
from pathlib import Path

import pytest

from nfilter import BudgetError, Completion, Price
from nfilter.api.budget import Budget, dollars
from nfilter.store.journal import Journal, paid_in


def test_a_price_is_a_token_s() -> None:
    assert Price(0.25, 2.0).of(4, 3) == 7.0


def test_what_is_held_and_spent_never_exceeds_the_cap() -> None:
    """Sixty-four threads; a ledger of their own says what is out at most at any time."""
    budget = Budget(1.0)
    lock, out, worst, refused = threading.Lock(), [0.0], [0.0], [0]

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(50):
            most = rng.uniform(0, 0.05)
            try:
                if not budget.hold(most):
                    continue
            except BudgetError:
                refused[0] += 1
                return
            with lock:
                out[0] += most
                worst[0] = max(worst[0], out[0])
            usd = rng.uniform(0, most)
            with lock:
                out[0] -= most - usd  # what is not spent comes back
            budget.settle(most, usd)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.5 < budget.spent <= worst[0] <= 1.0 + 1e-9
    assert refused[0]


def test_a_call_waits_for_those_that_are_out_and_fails_when_there_are_none() -> None:
    budget = Budget(1.0)
    assert budget.hold(0.7)
    assert not budget.hold(0.7)
    budget.settle(0.7, 0.1)
    assert budget.hold(0.7)
    budget.settle(0.7, 0.7)
    with pytest.raises(
        BudgetError,
        match=r"\$0.8000 is spent, and the next call may cost \$0.7000.*raise budget.usd",
    ):
        budget.hold(0.7)


def test_without_a_cap_it_counts_alone() -> None:
    budget = Budget()
    assert budget.hold(1e9)
    budget.settle(1e9, 0.25)
    budget.paid_before(0.5)
    assert (budget.spent, budget.held, budget.summary()) == (0.75, 0.0, "$0.75")


@pytest.mark.parametrize(
    ("usd", "text"), [(0.0, "$0.00"), (0.42, "$0.42"), (12.345, "$12.35"), (0.0042, "$0.0042"), (1.26e-5, "$1.3e-05")]
)  # fmt: skip
def test_an_amount_is_told_in_cents_and_never_as_nothing(usd: float, text: str) -> None:
    assert dollars(usd) == text


def test_what_is_told_has_the_cap_and_what_is_held() -> None:
    budget = Budget(5.0)
    budget.paid_before(0.4)
    assert budget.summary() == "$0.40 of $5.00"
    budget.hold(0.25)
    assert budget.summary() == "$0.40 of $5.00, $0.25 held"
    budget.settle(0.25, 0.02)
    assert budget.summary() == "$0.42 of $5.00"


def test_what_is_owed_is_held_whatever_is_left() -> None:
    budget = Budget(1.0)
    assert budget.left == 1.0
    budget.hold_uncapped(3.0)
    assert (budget.held, budget.left) == (3.0, -2.0)
    assert not budget.hold(0.1)  # it waits for what is out
    budget.settle(3.0, 0.5)
    assert (budget.spent, budget.held) == (0.5, 0.0)
    assert budget.hold(0.4)


def test_what_was_paid_before_counts() -> None:
    budget = Budget(1.0)
    budget.paid_before(0.9)
    with pytest.raises(BudgetError):
        budget.hold(0.2)
    assert budget.spent == 0.9


def test_a_journal_sums_what_was_paid_and_what_was_lost(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    assert paid_in(path) == 0.0
    journal = Journal(path)
    journal.commit([("a", Completion("x", usd=0.25)), ("b", Completion("y"))], [])
    journal.commit([("a", Completion("x", usd=0.25))], [], [("stage", "model", 0.5)])
    assert journal.usd() == 0.75
    journal.close()
    assert paid_in(path) == 0.75


def test_answers_that_were_lent_cost_nothing(tmp_path: Path) -> None:
    first = Journal(tmp_path / "first.db")
    first.commit([("a", Completion("x", usd=0.25))], [])
    first.close()
    second = Journal(tmp_path / "second.db", [tmp_path / "first.db"])
    assert second.find(["a"])["a"].text == "x"
    assert second.usd() == 0.0
    second.close()


def test_a_journal_from_before_costs_were_kept_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    connection = sqlite3.connect(path)
    connection.execute(
        "CREATE TABLE calls (key TEXT PRIMARY KEY, answer TEXT NOT NULL, prompt_tokens INTEGER NOT NULL, "
        "completion_tokens INTEGER NOT NULL) WITHOUT ROWID"
    )
    connection.execute(
        'INSERT INTO calls VALUES (\'a\', \'{"text": "old", "finish": "stop", "logprobs": null, '
        '"prompt_tokens": 1, "completion_tokens": 1, "failure": null}\', 1, 1)'
    )
    connection.commit()
    connection.close()
    journal = Journal(path)
    assert journal.find(["a"])["a"].text == "old"
    journal.commit([("b", Completion("new", usd=0.5))], [])
    assert journal.usd() == 0.5
    journal.close()
