"""Hold connections to allowed hosts where they are made, below every URL parser and every client library.

The thread of an engine, the threads of its loop's executor, and what their calls start with a copy of the context may
look up and connect to allowed hosts alone. A name is judged when it is looked up; an address when it is connected, unless a
look-up of an allowed name gave it. All other threads of the process are left alone.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from nfilter import AllowedHosts

_CONNECTS = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})
_LOOKS_UP = frozenset(
    {"socket.gethostbyname", "socket.gethostbyname_ex", "socket.gethostbyaddr"}
)  # what getaddrinfo is asked goes through a wrapper, which sees the answer too


class HostNotAllowedError(OSError):
    """A connection to a host that nobody allowed. It was not made."""

    def __init__(self, host: str) -> None:
        super().__init__(f"no connection is allowed to {host}")
        self.host = host


class Hold:
    """What one engine may connect to. ``refused`` is the host that was refused last."""

    def __init__(self, allowed: AllowedHosts) -> None:
        self.allowed = allowed
        self.refused: str | None = None
        self._given: set[str] = set()

    def judge_name(self, host: str) -> None:
        """Raises HostNotAllowedError for a host that is not allowed, be it a name or an address."""
        if host not in self.allowed:
            self.refused = host
            raise HostNotAllowedError(host)

    def given(self, found: list[Any]) -> None:
        """Remember the addresses that the look-up of an allowed name gave."""
        self._given.update(str(entry[4][0]) for entry in found if len(entry) > 4)

    def judge_address(self, host: str) -> None:
        """Raises HostNotAllowedError for an address that no allowed name led to, and that is not allowed itself."""
        if host not in self._given:
            self.judge_name(host)


_thread = threading.local()
_task: ContextVar[Hold | None] = ContextVar("nfilter_litellm_hold", default=None)
_installing = threading.Lock()


def current() -> Hold | None:
    """What holds the connections of this thread or task; None where nothing does."""
    hold: Hold | None = getattr(_thread, "hold", None)
    return hold or _task.get()


def hold_thread(hold: Hold | None) -> None:
    """Hold every connection that this thread makes from now on."""
    _thread.hold = hold


@contextmanager
def holding(hold: Hold | None) -> Iterator[None]:
    """Hold what is called in the block, and the threads that it starts with a copy of its context."""
    token = _task.set(hold)
    try:
        yield
    finally:
        _task.reset(token)


def new_loop(hold: Hold | None) -> asyncio.AbstractEventLoop:
    """An event loop whose executor is held as well. Its sockets are Python's, so that they can be."""
    if hold is None:
        return asyncio.new_event_loop()
    _install()
    loop = asyncio.SelectorEventLoop()
    loop.set_default_executor(
        ThreadPoolExecutor(
            thread_name_prefix="nfilter-calls", initializer=hold_thread, initargs=(hold,)
        )
    )
    return loop


def _install() -> None:
    """Watch look-ups and connections of this process, once."""
    with _installing:
        real = socket.getaddrinfo
        if getattr(real, "held", False):
            return
        socket.getaddrinfo = _held_lookup(real)
        sys.addaudithook(_watch)


def _held_lookup(real: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> list[Any]:
        hold = current()
        if hold is None or host is None:
            return real(host, *args, **kwargs)
        hold.judge_name(_text(host))
        found = real(host, *args, **kwargs)
        hold.given(found)
        return found

    getaddrinfo.held = True  # type: ignore[attr-defined]
    return getaddrinfo


def _watch(event: str, args: tuple[Any, ...]) -> None:
    if not event.startswith("socket."):
        return
    if event in _CONNECTS:
        hold = current()
        address = args[1] if len(args) > 1 else None
        # The address of a Unix socket is a path, and a message on a connected socket has none.
        if hold is not None and isinstance(address, tuple) and address:
            hold.judge_address(_text(address[0]))
    elif event in _LOOKS_UP:
        hold = current()
        if hold is not None and args:
            hold.judge_name(_text(args[0]))


def _text(host: Any) -> str:
    return host.decode("ascii", "backslashreplace") if isinstance(host, bytes) else str(host)
