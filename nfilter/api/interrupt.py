"""Ctrl-C or SIGTERM during calls: the first waits for running calls and starts no more, the second abandons them.

An error that ends a group of calls waits for running calls in the same way, and this is said (``draining``).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

from nfilter.api.errors import NfilterError

_WAITING = "waiting for running calls, to keep their answers; press Ctrl-C again to abandon them"


class Interrupted(KeyboardInterrupt):
    """These calls end early, after a first Ctrl-C or an error of others: none is running any more, and none was started since.

    ``__cause__`` is the error of others, if there is one.
    """


@dataclass(frozen=True, slots=True, eq=False)
class _Calls:
    """Calls that may be running."""

    message: str
    running: Callable[[], int | None]


class Interrupt:
    """Whether calls end early. A backend whose calls cost money starts none while ``requested`` is true."""

    def __init__(self) -> None:
        self._requested = threading.Event()
        self._calls: list[_Calls] = []
        self._draining: list[object] = []
        self._say: Callable[[str], None] = lambda _: None

    @property
    def requested(self) -> bool:
        """Whether no further call may start: after a first Ctrl-C, and while an error waits for running calls."""
        return self._requested.is_set() or bool(self._draining)

    @contextmanager
    def draining(self, cause: BaseException | None = None) -> Iterator[None]:
        """In the block, no further call starts, and the answers of running calls are taken: an error follows it.

        Ctrl-C in the block abandons the calls. ``cause`` is the error; it is told at once, unless calls end early already or none
        is running.
        """
        if cause is not None and not self.requested:
            self._tell(cause)
        mark = object()
        self._draining.append(mark)
        try:
            yield
        finally:
            self._draining.remove(mark)

    def _tell(self, cause: BaseException) -> None:
        counts = [calls.running() for calls in self._calls]
        known = sum(count for count in counts if count is not None)
        if not known and None not in counts:
            return
        what = f"{known} running call{'' if known == 1 else 's'}" if known else "running calls"
        error = (
            str(cause) if isinstance(cause, NfilterError) else f"{type(cause).__name__}: {cause}"
        )
        # A log that cannot be written must not hide the error.
        with suppress(RuntimeError, NfilterError):
            self._say(
                f"the run ends because of an error: {error}; it waits for {what}, to keep their answers; press Ctrl-C to abandon them"
            )

    @contextmanager
    def calls(
        self, message: str = _WAITING, running: Callable[[], int | None] = lambda: None
    ) -> Iterator[None]:
        """In the block, calls may be running that are worth waiting for.

        ``message`` is printed at the first Ctrl-C; ``running`` returns the number of calls that run, None if it is unknown.
        """
        calls = _Calls(message, running)
        self._calls.append(calls)
        try:
            yield
        finally:
            self._calls.remove(calls)

    @contextmanager
    def installed(self, say: Callable[[str], None]) -> Iterator[None]:
        """Handle SIGINT and SIGTERM in the block; ``say`` receives a message at the first one. Does nothing outside the main thread.

        ``say`` also receives what ``draining`` tells.

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
            if not self._calls or self.requested:
                raise KeyboardInterrupt
            self._requested.set()
            # A print that the signal interrupted cannot be entered again, and a log may be on a full disk.
            with suppress(RuntimeError, NfilterError):
                say(f"interrupted: {self._calls[-1].message}")

        numbers = [signal.SIGINT]
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            numbers.append(signal.SIGTERM)
        before = {number: signal.signal(number, interrupted) for number in numbers}
        quiet, self._say = self._say, say
        try:
            yield
        finally:
            self._say = quiet
            for number, handler in before.items():
                signal.signal(number, handler)
