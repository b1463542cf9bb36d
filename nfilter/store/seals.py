"""Seals: the size and SHA-256 of a published file, and checks against them."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from functools import cache
from pathlib import Path
from typing import NamedTuple

from nfilter.api.errors import DamageError
from nfilter.store.locks import other_process


class Seal(NamedTuple):
    """The size in bytes and the SHA-256 in hex of a file when it was written."""

    size: int
    sha256: str


class Tally:
    """Computes the seal of bytes while they are written."""

    def __init__(self) -> None:
        self._size = 0
        self._hasher = hashlib.sha256()

    def add(self, data: bytes) -> None:
        """Add the next bytes."""
        self._size += len(data)
        self._hasher.update(data)

    def seal(self) -> Seal:
        """Return the seal of the bytes so far."""
        return Seal(self._size, self._hasher.hexdigest())


def sealed(path: Path) -> Seal:
    """Return the seal of a file's current content. An unchanged file is read once per process."""
    state = _state_of(path)
    known = _known()
    key = _identity(state)
    if key not in known:
        with path.open("rb") as data:
            known[key] = hashlib.file_digest(data, "sha256").hexdigest()
    return Seal(state.st_size, known[key])


def _state_of(path: Path) -> os.stat_result:
    """Return the state of a file or folder; raise OSError for a pipe or device, which may never end."""
    state = path.stat()
    if not (stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode)):
        raise OSError(errno.EINVAL, "it is not a regular file")
    return state


def content(path: Path) -> bytes:
    """Return the bytes of a file without a seal; raise OSError."""
    _state_of(path)
    return path.read_bytes()


def remember(path: Path, seal: Seal) -> None:
    """Store the seal of a file that this process wrote or read completely, so that it is not read again."""
    state = path.stat()
    if state.st_size == seal.size:
        _known()[_identity(state)] = seal.sha256


def check(path: Path, seal: Seal, home: Path) -> None:
    """Check that the content of ``path`` matches its seal.

    Raises:
        DamageError: if it does not. It names the file, the damage and the command that repairs the run ``home``.
    """
    try:
        actual = sealed(path)
    except OSError as error:
        raise unreadable(path, error, home) from error
    _compare(path, actual, seal, home)


def read(path: Path, seal: Seal, home: Path) -> bytes:
    """Return the bytes of a file after checking them against its seal.

    Raises:
        DamageError: as ``check`` does.
    """
    try:
        state = _state_of(path)
        data = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error, home) from error
    known = _known().get(_identity(state))
    actual = Seal(len(data), known or hashlib.sha256(data).hexdigest())
    _compare(path, actual, seal, home)
    remember(path, actual)
    return data


def damaged(path: Path, what: str, home: Path) -> DamageError:
    """Return the error for a damaged file of the run ``home``: a process that is running in it may be replacing the file."""
    process = other_process(home)
    if process is not None:
        return DamageError(
            f"{path}: {what}; process {process} is running in {home} and may be replacing it: wait for it",
            path,
            what,
        )
    return DamageError(
        f"{path}: {what}; run the command that made it again, `{_command(home)}`: it repairs the damage and repeats no "
        "paid call",
        path,
        what,
    )


def _command(home: Path) -> str:
    """The command that made a run; for a group and for one seed of a group, the command of the group."""
    if re.fullmatch(r"seed--?\d+", home.name):
        return f"nfilter run RECIPE --out {home.parent} --seeds ..."
    group = next(home.glob("seed-*"), None) is not None
    return f"nfilter run RECIPE --out {home}{' --seeds ...' if group else ''}"


def unreadable(path: Path, error: OSError, home: Path) -> DamageError:
    """Return the error for a file of the run ``home`` that is missing or cannot be read."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return damaged(path, "is missing", home)
    return damaged(path, f"cannot be read ({error.strerror or error})", home)


def _compare(path: Path, actual: Seal, seal: Seal, home: Path) -> None:
    if actual.size != seal.size:
        raise damaged(path, f"has {actual.size:,} bytes, and {seal.size:,} were written", home)
    if actual.sha256 != seal.sha256:
        raise damaged(path, "has other bytes than were written", home)


def _identity(state: os.stat_result) -> tuple[int, int, int, int]:
    return (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)


@cache
def _known() -> dict[tuple[int, int, int, int], str]:
    """SHA-256 by device, inode, size and modification time, so that each file is hashed once."""
    return {}
