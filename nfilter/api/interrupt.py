"""Ctrl-C while calls are out: the first lets them end and asks for no more, the second gives them up."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_WAITING = (
    "waiting for the calls that are out, to keep their answers; press Ctrl-C again to give them up"
)


class Drain:
    """Whether a run is being ended by a person. A backend whose calls cost money begins none once ``asked`` is true."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._out: list[str] = []

    @property
    def asked(self) -> bool:
        """Whether no call is to be begun any more."""
        return self._asked.is_set()

    @contextmanager
    def calls(self, said: str = _WAITING) -> Iterator[None]:
        """While this is open there are calls worth waiting for; ``said`` is what becomes of them at the first Ctrl-C."""
        self._out.append(said)
        try:
            yield
        finally:
            self._out.remove(said)

    @contextmanager
    def installed(self, say: Callable[[str], None]) -> Iterator[None]:
        """Answer SIGINT; ``say`` is told when the first one comes. Elsewhere than in the main thread nothing is done."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def interrupted(number: int, frame: FrameType | None) -> None:
            del number, frame
            if not self._out or self.asked:
                raise KeyboardInterrupt
            self._asked.set()
            # A print that the signal came into takes no other.
            with suppress(RuntimeError):
                say(f"interrupted: {self._out[-1]}")

        before = signal.signal(signal.SIGINT, interrupted)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
