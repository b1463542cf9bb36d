"""Ctrl-C or SIGTERM during calls: the first waits for running calls and starts no more, the second abandons them.

An error that ends a group of calls waits for running calls in the same way (``draining``).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_WAITING = "waiting for running calls, to keep their answers; press Ctrl-C again to abandon them"


class Interrupted(KeyboardInterrupt):
    """These calls end early, after a first Ctrl-C or an error of others: none is running any more, and none was started since."""


class Interrupt:
    """Whether calls end early. A backend whose calls cost money starts none while ``requested`` is true."""

    def __init__(self) -> None:
        self._requested = threading.Event()
        self._messages: list[str] = []
        self._draining: list[object] = []

    @property
    def requested(self) -> bool:
        """Whether no further call may start: after a first Ctrl-C, and while an error waits for running calls."""
        return self._requested.is_set() or bool(self._draining)

    @contextmanager
    def draining(self) -> Iterator[None]:
        """In the block, no further call starts, and the answers of running calls are taken: an error follows it.

        Ctrl-C in the block abandons the calls.
        """
        mark = object()
        self._draining.append(mark)
        try:
            yield
        finally:
            self._draining.remove(mark)

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
