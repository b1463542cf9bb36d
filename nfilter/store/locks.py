"""Locks of files, which end with the process that has them, and the lock of a run directory."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import IO, Final

LOCK: Final = ".lock"
"""The file in a run directory that the process running in it has locked, with its number."""


def locked(lock: IO[str]) -> bool:
    """Lock an open file for this process until it is closed; return whether no other process has it locked."""
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def unlock(lock: IO[str]) -> None:
    """Release the lock of an open file."""
    import fcntl

    fcntl.flock(lock, fcntl.LOCK_UN)


def locked_soon(lock: IO[str]) -> bool:
    """Lock an open file; wait a little if it is locked, because another process takes it for a moment to see whether it is."""
    for _ in range(5):
        if locked(lock):
            return True
        time.sleep(0.02)
    return False


def holder_of(lock: IO[str]) -> str:
    """The process number in a lock file."""
    # A process that has just taken the lock writes its number a moment later.
    for _ in range(50):
        lock.seek(0)
        if number := lock.read().strip():
            return number
        time.sleep(0.02)
    return "unknown"


def other_process(folder: Path) -> str | None:
    """Return the number of another process that is running in a run directory; None if none is."""
    import fcntl

    try:
        lock = (folder / LOCK).open(encoding="utf-8")
    except OSError:
        return None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            holder = holder_of(lock)
            return None if holder == str(os.getpid()) else holder
    return None
