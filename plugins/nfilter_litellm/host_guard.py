"""Restrict connections to allowed hosts at the socket level, below URL parsers and client libraries.

An engine's thread, its loop's executor threads and threads that inherit a guarded context may look up and connect to
allowed hosts only. A name is checked when it is looked up; an address when it is connected to, unless the lookup of an
allowed name returned it. Other threads of the process are not affected.
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

_CONNECT_EVENTS = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})
_LOOKUP_EVENTS = frozenset(
    {"socket.gethostbyname", "socket.gethostbyname_ex", "socket.gethostbyaddr"}
)  # getaddrinfo is wrapped instead, to see its results


class HostNotAllowedError(OSError):
    """A connection to a host that is not allowed; it was not made."""

    def __init__(self, host: str) -> None:
        super().__init__(f"no connection is allowed to {host}")
        self.host = host


class HostGuard:
    """Allowed hosts of one engine. ``refused`` is the host that was refused last."""

    def __init__(self, allowed: AllowedHosts) -> None:
        self.allowed = allowed
        self.refused: str | None = None
        self._resolved: set[str] = set()

    def check_name(self, host: str) -> None:
        """Raise HostNotAllowedError for a name or address that is not allowed."""
        if host not in self.allowed:
            self.refused = host
            raise HostNotAllowedError(host)

    def add_resolved(self, results: list[Any]) -> None:
        """Remember the addresses that the lookup of an allowed name returned."""
        self._resolved.update(str(entry[4][0]) for entry in results if len(entry) > 4)

    def check_address(self, host: str) -> None:
        """Raise HostNotAllowedError for an address that is not allowed and that no allowed name resolved to."""
        if host not in self._resolved:
            self.check_name(host)


_thread = threading.local()
_task: ContextVar[HostGuard | None] = ContextVar("nfilter_litellm_guard", default=None)
_install_lock = threading.Lock()


def current_guard() -> HostGuard | None:
    """Return the guard of this thread or task, or None."""
    guard: HostGuard | None = getattr(_thread, "guard", None)
    return guard or _task.get()


def guard_thread(guard: HostGuard | None) -> None:
    """Guard all later connections of this thread."""
    _thread.guard = guard


@contextmanager
def guarded(guard: HostGuard | None) -> Iterator[None]:
    """Guard the calls in the block, and threads that it starts with a copy of its context."""
    token = _task.set(guard)
    try:
        yield
    finally:
        _task.reset(token)


def new_loop(guard: HostGuard | None) -> asyncio.AbstractEventLoop:
    """Return an event loop with a guarded executor; it uses Python's sockets, which raise audit events."""
    if guard is None:
        return asyncio.new_event_loop()
    _install()
    loop = asyncio.SelectorEventLoop()
    loop.set_default_executor(
        ThreadPoolExecutor(
            thread_name_prefix="nfilter-calls", initializer=guard_thread, initargs=(guard,)
        )
    )
    return loop


def _install() -> None:
    """Install the lookup wrapper and the audit hook of this process, once."""
    with _install_lock:
        real = socket.getaddrinfo
        if getattr(real, "guarded", False):
            return
        socket.getaddrinfo = _guarded_lookup(real)
        sys.addaudithook(_audit)


def _guarded_lookup(real: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> list[Any]:
        guard = current_guard()
        if guard is None or host is None:
            return real(host, *args, **kwargs)
        guard.check_name(_text(host))
        results = real(host, *args, **kwargs)
        guard.add_resolved(results)
        return results

    getaddrinfo.guarded = True  # type: ignore[attr-defined]
    return getaddrinfo


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if not event.startswith("socket."):
        return
    if event in _CONNECT_EVENTS:
        guard = current_guard()
        address = args[1] if len(args) > 1 else None
        # A Unix socket's address is a path, and a message on a connected socket has no address.
        if guard is not None and isinstance(address, tuple) and address:
            guard.check_address(_text(address[0]))
    elif event in _LOOKUP_EVENTS:
        guard = current_guard()
        if guard is not None and args:
            guard.check_name(_text(args[0]))


def _text(host: Any) -> str:
    return host.decode("ascii", "backslashreplace") if isinstance(host, bytes) else str(host)
