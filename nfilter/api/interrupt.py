"""Ctrl-C or SIGTERM during calls: the first waits for running calls and starts no more, the second abandons them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_WAITING = "waiting for running calls, to keep their answers; press Ctrl-C again to abandon them"


class Interrupted(KeyboardInterrupt):
    """The run ends after a first Ctrl-C: of these calls none is running any more, and none was started since."""


class Interrupt:
    """Whether the user interrupted the run. A backend whose calls cost money starts none once ``requested`` is true."""

    def __init__(self) -> None:
        self._requested = threading.Event()
        self._messages: list[str] = []

    @property
    def requested(self) -> bool:
        """Whether no further call may start."""
        return self._requested.is_set()

    @contextmanager
    def calls(self, message: str = _WAITING) -> Iterator[None]:
        """In the block, calls are running that are worth waiting for; ``message`` is printed at the first Ctrl-C."""
        self._messages.append(message)
        try:
            yield
        finally:
            self._messages.remove(message)

    @contextmanager
    def installed(self, say: Callable[[str], None]) -> Iterator[None]:
        """Handle SIGINT and SIGTERM in the block; ``say`` receives a message at the first one. Does nothing outside the main thread.

        A scheduler sends SIGTERM before it kills. A handler of SIGTERM that a program has set itself stays.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        owner = os.getpid()

        def interrupted(number: int, frame: FrameType | None) -> None:
            del frame
            if os.getpid() != owner:
                # A child that inherited the handler, such as a worker that its parent terminates.
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
                return
            if not self._messages or self.requested:
                raise KeyboardInterrupt
            self._requested.set()
            # A print that the signal interrupted cannot be entered again.
            with suppress(RuntimeError):
                say(f"interrupted: {self._messages[-1]}")

        numbers = [signal.SIGINT]
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            numbers.append(signal.SIGTERM)
        before = {number: signal.signal(number, interrupted) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
