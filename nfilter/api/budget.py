"""Costs of calls, and a budget cap that concurrent calls cannot exceed: money is held before a call and settled after it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from nfilter.api.errors import BudgetError, StoreError

_ROUNDING = 1e-12  # dollars


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per prompt token and per generated token."""

    prompt: float
    completion: float

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the cost of these numbers of tokens in dollars."""
        return prompt_tokens * self.prompt + completion_tokens * self.completion


def dollars(usd: float) -> str:
    """Return an amount as text: in cents, or with two significant digits below one cent."""
    return f"${usd:.2f}" if usd >= 0.01 or usd == 0 else f"${usd:.2g}"


class Budget:
    """The total cost of calls, with an optional cap in dollars; thread-safe.

    ``spent`` is the cost of finished calls, ``held`` the maximum cost of running calls. Their sum does not exceed ``cap``,
    except through ``hold_uncapped`` and calls that cost more than was held for them.

    A completion has its cost. What was paid without a completion, such as the failed attempts of a call that ended with the run, is
    passed to ``lose``: the run stores it, so that the cap holds when the run is resumed.

    What a killed process has paid and not stored counts when the run is resumed: ``hold`` has the maximum cost of each call recorded before
    the call begins. Calls are ``recoverable`` if the backend's own records name them, so that it reads their answers after a kill and settles
    their cost then; it passes the cost of answers that are stored to ``recovered``.
    """

    def __init__(self, cap: float = math.inf) -> None:
        self.cap = cap
        self._lock = threading.Lock()
        self._spent = 0.0
        self._held = 0.0
        self._out = 0
        self._lost = 0.0
        self._begun = 0.0
        self._record: Callable[[float], None] | None = None

    @property
    def spent(self) -> float:
        """Dollars spent so far."""
        return self._spent

    @property
    def held(self) -> float:
        """Maximum cost of the running calls in dollars."""
        return self._held

    @property
    def left(self) -> float:
        """Dollars that are neither spent nor held; may be infinite."""
        return self.cap - self._spent - self._held

    def summary(self) -> str:
        """Return the spent amount as text, with the cap and the held amount if there are any: ``$0.42 of $5.00, $0.03 held``."""
        spent, held = self._spent, self._held
        if math.isinf(self.cap):
            return dollars(spent)
        of_held = f", {dollars(held)} held" if held > _ROUNDING else ""
        return f"{dollars(spent)} of {dollars(self.cap)}{of_held}"

    def paid_before(self, usd: float) -> None:
        """Add the cost of earlier runs in the same directory."""
        with self._lock:
            self._spent += usd

    def record_begun(self, record: Callable[[float], None] | None) -> None:
        """From now on, call ``record`` with the dollars begun since: the cost of ended calls, and the maximum cost of running ones.

        It is called before ``hold`` returns, and raises StoreError if it cannot record; None ends it.
        """
        with self._lock:
            self._record, self._begun = record, 0.0

    def hold(self, most: float, *, recoverable: bool = False) -> bool:
        """Hold ``most`` dollars for a call; return False if it has to wait for running calls.

        Raises:
            BudgetError: if no call is running and the remaining money does not cover this one.
            StoreError: if it cannot be recorded that the call begins.
        """
        with self._lock:
            if self._spent + self._held + most <= self.cap + _ROUNDING:
                if not recoverable:
                    self._begin(most)
                self._held += most
                self._out += 1
                return True
            if self._out:
                return False
            raise BudgetError(
                f"the budget of ${self.cap:g} is used up: ${self._spent:.4f} is spent, and the next call may cost ${most:.4f}; "
                "all answers are kept: raise budget.usd and run the same command to resume"
            )

    def hold_uncapped(self, most: float) -> None:
        """Hold ``most`` dollars for recoverable calls that an earlier run started; they are paid regardless of the cap."""
        with self._lock:
            self._held += most
            self._out += 1

    def settle(self, most: float, usd: float, *, recoverable: bool = False) -> None:
        """Record that a call with ``most`` held ended and cost ``usd``, which may be more than ``most``."""
        with self._lock:
            self._held = max(0.0, self._held - most)
            self._out -= 1
            self._spent += usd
            if not recoverable:
                self._end(usd - most)

    def recovered(self, usd: float) -> None:
        """Record that answers of recoverable calls, which cost ``usd`` dollars, are stored by the run."""
        with self._lock:
            self._end(usd)

    def lose(self, usd: float, *, recoverable: bool = False) -> None:
        """Record that ``usd`` dollars of the settled costs belong to no completion."""
        with self._lock:
            self._lost += usd
            if recoverable:
                self._end(usd)

    def take_lost(self) -> float:
        """Return the dollars passed to ``lose`` since the last call; the caller stores them."""
        with self._lock:
            lost, self._lost = self._lost, 0.0
        return lost

    def _begin(self, most: float) -> None:
        if self._record is not None and most:
            self._record(self._begun + most)
            self._begun += most

    def _end(self, more: float) -> None:
        """Record the cost of a call that ended. The maximum stays recorded if this fails; an answer must not be lost for it."""
        self._begun += more
        if self._record is not None and more:
            with suppress(StoreError):
                self._record(self._begun)
