"""What a published file holds, by size and SHA-256, and whether it still holds that."""

from __future__ import annotations

import hashlib
import os
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from nfilter.api.errors import DamageError


class Seal(NamedTuple):
    """The size in bytes and the SHA-256 in hex of a file as it was written."""

    size: int
    sha256: str


class Tally:
    """Takes bytes as they are written, and gives their seal."""

    def __init__(self) -> None:
        self._size = 0
        self._hasher = hashlib.sha256()

    def add(self, data: bytes) -> None:
        """Count what is written next."""
        self._size += len(data)
        self._hasher.update(data)

    def seal(self) -> Seal:
        """Of all that was added so far."""
        return Seal(self._size, self._hasher.hexdigest())


def sealed(path: Path) -> Seal:
    """The seal of a file as it is now; a file is read once a process, for as long as it does not change."""
    state = path.stat()
    known = _known()
    key = _identity(state)
    if key not in known:
        with path.open("rb") as data:
            known[key] = hashlib.file_digest(data, "sha256").hexdigest()
    return Seal(state.st_size, known[key])


def remember(path: Path, seal: Seal) -> None:
    """This process wrote ``path``, or read it whole, and knows what it holds."""
    state = path.stat()
    if state.st_size == seal.size:
        _known()[_identity(state)] = seal.sha256


def check(path: Path, seal: Seal, home: Path) -> None:
    """Nothing where ``path`` holds what was written there.

    Raises:
        DamageError: names the file, what is wrong with it and the command that makes it anew in the run ``home``.
    """
    try:
        there = sealed(path)
    except OSError as error:
        raise unreadable(path, error, home) from error
    _compare(path, there, seal, home)


def read(path: Path, seal: Seal, home: Path) -> bytes:
    """The bytes of a file that holds what was written there. Raises DamageError as ``check`` does."""
    try:
        state = path.stat()
        data = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error, home) from error
    known = _known().get(_identity(state))
    there = Seal(len(data), known or hashlib.sha256(data).hexdigest())
    _compare(path, there, seal, home)
    remember(path, there)
    return data


def damaged(path: Path, what: str, home: Path) -> DamageError:
    """The error for a file of the run ``home`` that is not what was written."""
    return DamageError(
        f"{path}: {what}; type the command that made it again, `{_command(home)}`: it makes anew what is damaged, and pays "
        "for no call twice",
        path,
        what,
    )


def _command(home: Path) -> str:
    """The command that made a run; of one seed of a group, and of a group, that of the group."""
    if re.fullmatch(r"seed--?\d+", home.name):
        return f"nfilter run RECIPE --out {home.parent} --seeds ..."
    group = next(home.glob("seed-*"), None) is not None
    return f"nfilter run RECIPE --out {home}{' --seeds ...' if group else ''}"


def unreadable(path: Path, error: OSError, home: Path) -> DamageError:
    """The error for a file of the run ``home`` that is gone or cannot be read."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return damaged(path, "is missing", home)
    return damaged(path, f"cannot be read ({error.strerror or error})", home)


def _compare(path: Path, there: Seal, seal: Seal, home: Path) -> None:
    if there.size != seal.size:
        raise damaged(path, f"has {there.size:,} bytes where {seal.size:,} were written", home)
    if there.sha256 != seal.sha256:
        raise damaged(path, "holds other bytes than were written", home)


def _identity(state: os.stat_result) -> tuple[int, int, int, int]:
    return (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)


@cache
def _known() -> dict[tuple[int, int, int, int], str]:
    """SHA-256 by all that changes with a file's bytes: a file that is read ten times is hashed once."""
    return {}
