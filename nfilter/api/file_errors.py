"""Errors of the file system: which file or folder is the cause, and what to do about it."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nfilter.api.errors import StoreError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""The disk is full, or the user's share of it."""
DENIED = frozenset({errno.EACCES, errno.EPERM})
"""A permission is missing."""
_NO_FOLDER = frozenset({errno.ENOTDIR, errno.EEXIST})


def file_advice(path: Path, error: OSError, *, write: bool = False) -> str:
    """Return what to do about ``error`` at ``path``, the end of a sentence.

    A missing permission is that of the file, or of a folder above it; the advice names the one.

    Args:
        path: A file or folder that cannot be read, or written if ``write``.
        error: The error of the file system.
        write: Whether it is to be written too.
    """
    if error.errno in FULL:
        return "free some space"
    if error.errno == errno.EROFS:
        return "its file system is read-only: choose a folder on another one"
    if error.errno in DENIED:
        return _grant(_barrier(path, write=write), write=write)
    file = next((each for each in path.parents if _is_file(each)), None)
    if error.errno in _NO_FOLDER and file is not None:
        return f"{file} is a file, and a folder is needed: choose another place, or move it away"
    return "make it writable" if write else "make it readable"


def write_error(path: Path, error: OSError) -> StoreError:
    """Return the error for a ``path`` that cannot be written."""
    return StoreError(
        f"{path}: cannot be written ({error.strerror or error}); earlier files are unchanged: "
        f"{file_advice(path, error, write=True)}, and run the same command to resume"
    )


@contextmanager
def accessing(folder: Path) -> Iterator[None]:
    """Convert an error of the file system in the block about ``folder``, or about something in it.

    Raises:
        StoreError: with what to do about a missing permission, a full disk, or whatever the error is.
    """
    try:
        yield
    except OSError as error:
        fault = access_error(folder, error)
        if fault is None:
            raise
        raise fault from error


def access_error(folder: Path, error: OSError) -> StoreError | None:
    """Return the error for an OSError about ``folder`` or something in it; None if it is about something else."""
    name = error.filename
    if name is None and error.errno in FULL:
        return write_error(folder, error)
    if not isinstance(name, str | os.PathLike):
        return None
    # The removal of a folder names what is in it without the path.
    place = Path(name) if os.sep in str(name) else folder / name
    if not (Path(name) == folder or place.absolute().is_relative_to(folder.absolute())):
        return None
    place = folder if Path(name) == folder else place
    return StoreError(
        f"{place}: cannot be used ({error.strerror or error}); {file_advice(place, error, write=True)}, and run the same "
        "command again"
    )


def missing_permission(path: Path) -> PermissionError | None:
    """Return the error for a file that this user may not read and write, or whose folder it may not write; None if it may."""
    for place in (path.parent, path):
        needed = os.R_OK | os.W_OK | (os.X_OK if place == path.parent else 0)
        if os.access(place, os.F_OK) and not os.access(place, needed):
            return PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
    return None


def _grant(place: Path, *, write: bool) -> str:
    try:
        owner = place.lstat().st_uid
    except OSError:
        owner = os.geteuid()
    if os.geteuid() not in (0, owner):
        return f"{place} belongs to {_user(owner)}, who can permit it"
    folder = place.is_dir()
    # What is in a folder that was closed may be closed too.
    closed = folder and not os.access(place, os.R_OK | os.X_OK)
    mode = f"u+r{'w' if write else ''}{'X' if folder else ''}"
    return f"type: chmod {'-R ' if closed else ''}{mode} {shlex.quote(str(place))}"


def _barrier(path: Path, *, write: bool) -> Path:
    """Return the outermost folder on the way to ``path`` that may not be entered, else what lacks a permission itself."""
    needed = os.R_OK | (os.W_OK if write else 0)
    for folder in reversed(path.parents):
        if folder != Path() and not os.access(folder, os.X_OK):
            return folder
    if path.exists() and not os.access(path, needed | (os.X_OK if path.is_dir() else 0)):
        return path
    if write and not os.access(path.parent, needed | os.X_OK):
        return path.parent
    inside = (Path(folder, name) for folder, names, _ in os.walk(path) for name in names)
    return next((each for each in inside if not os.access(each, needed | os.X_OK)), path)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _user(number: int) -> str:
    import pwd

    try:
        return f"the user {pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"the user with the number {number}"
