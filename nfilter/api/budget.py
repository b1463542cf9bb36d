"""What calls cost, and a cap that no race can exceed: money is held before a call is made, and settled after it."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

from nfilter.api.errors import BudgetError

_ROUNDING = 1e-12  # dollars


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for one token of a prompt, and for one that is generated."""

    prompt: float
    completion: float

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What so many tokens cost."""
        return prompt_tokens * self.prompt + completion_tokens * self.completion


def dollars(usd: float) -> str:
    """An amount for people: cents, and below one as much as shows that it is not nothing."""
    return f"${usd:.2f}" if usd >= 0.01 or usd == 0 else f"${usd:.2g}"


class Budget:
    """What all calls that are made with it cost together, from any thread, and a cap in dollars where there is one.

    ``spent`` is what was paid, ``held`` what calls that are out may yet cost: their sum never exceeds ``cap``.
    """

    def __init__(self, cap: float = math.inf) -> None:
        self.cap = cap
        self._lock = threading.Lock()
        self._spent = 0.0
        self._held = 0.0
        self._out = 0

    @property
    def spent(self) -> float:
        """Dollars paid so far."""
        return self._spent

    @property
    def held(self) -> float:
        """Dollars that calls which are out may yet cost."""
        return self._held

    @property
    def left(self) -> float:
        """Dollars that are neither spent nor held."""
        return self.cap - self._spent - self._held

    def told(self) -> str:
        """What is spent so far, and with a cap of how much: ``$0.42 of $5.00, $0.03 held``."""
        spent, held = self._spent, self._held
        if math.isinf(self.cap):
            return dollars(spent)
        held_back = f", {dollars(held)} held" if held > _ROUNDING else ""
        return f"{dollars(spent)} of {dollars(self.cap)}{held_back}"

    def paid_before(self, usd: float) -> None:
        """Count what an earlier run of the same directory paid."""
        with self._lock:
            self._spent += usd

    def hold(self, most: float) -> bool:
        """Set ``most`` dollars aside for a call; False where it has to wait for calls that are out.

        Raises:
            BudgetError: when no call is out and the money that is left does not cover this one.
        """
        with self._lock:
            if self._spent + self._held + most <= self.cap + _ROUNDING:
                self._held += most
                self._out += 1
                return True
            if self._out:
                return False
            raise BudgetError(
                f"the budget of ${self.cap:g} is used up: ${self._spent:.4f} is spent, and the next call may cost ${most:.4f}; "
                "what was answered is kept: raise budget.usd and run the same command to go on"
            )

    def owe(self, most: float) -> None:
        """Set ``most`` dollars aside for calls that an earlier run left out: they are paid for whatever is left."""
        with self._lock:
            self._held += most
            self._out += 1

    def settle(self, most: float, usd: float) -> None:
        """A call for which ``most`` was held has ended and cost ``usd``; what it cost beyond ``most`` counts too."""
        with self._lock:
            self._held = max(0.0, self._held - most)
            self._out -= 1
            self._spent += usd
