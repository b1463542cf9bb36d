"""Atomic writes of files and folders, and JSON files with a digest of their content."""

from __future__ import annotations

import glob
import hashlib
import io
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from nfilter.api.errors import StoreError
from nfilter.api.file_errors import file_advice, write_error
from nfilter.store.failpoints import reach
from nfilter.store.seals import Seal, Tally, check, content, damaged, remember, unreadable

SEAL = "seal"
PART = ".part"


def canonical(value: Any) -> str:
    """Return canonical JSON: sorted keys, no white space, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest(*parts: Any) -> str:
    """Return the SHA-256, in hex, of the canonical JSON of ``parts``."""
    return hashlib.sha256(canonical(parts).encode("utf-8", "surrogatepass")).hexdigest()


@contextmanager
def publishing(path: Path) -> Iterator[IO[str]]:
    """Open a text file that appears at ``path`` only if the block succeeds.

    Raises:
        StoreError: if it cannot be written.
    """
    with publishing_file(path) as part, part.open("w", encoding="utf-8", newline="") as out:
        yield out


@contextmanager
def publishing_file(path: Path) -> Iterator[Path]:
    """Yield the path of an empty file in the same folder; if the block succeeds, it is synced and renamed to ``path``.

    Raises:
        StoreError: if it cannot be written, e.g. on a full disk. An earlier file at ``path`` is kept.
    """
    with _temporary(path, secrets.token_hex(4), lambda part: part.touch(exist_ok=False)) as part:
        mode = part.stat().st_mode
        reach("publish.opened")
        yield part
        reach("publish.written")
        # safetensors renames a file of its own over the one that it is given, with mode 0600.
        part.chmod(mode)
        _sync(part)
        reach("publish.synced")
        refuse_folder(path)
        _rename(part, path)


@contextmanager
def publishing_folder(path: Path) -> Iterator[Path]:
    """Yield the path of an empty folder in the same folder; if the block succeeds, it is synced and replaces ``path``.

    A file or folder at ``path`` is removed just before the rename, so that after a kill the new one, the old one or none
    exists. Temporary folders that killed processes of this machine left for the same ``path`` are removed first.

    Raises:
        StoreError: if it cannot be written.
    """
    mark = f"{os.uname().nodename}-"
    _remove_abandoned(path, mark)
    with _temporary(path, f"{mark}{os.getpid()}", _new_folder) as part:
        yield part
        reach("publish.written")
        sync_folder(part)
        reach("publish.synced")
        remove(path)
        _rename(part, path)


def _remove_abandoned(path: Path, mark: str) -> None:
    """Remove the temporary folders of ``path`` whose process, the number after ``mark``, no longer runs."""
    start = f".{path.name}.{mark}"
    for part in path.parent.glob(f"{glob.escape(start)}*{PART}"):
        process = part.name[len(start) : -len(PART)]
        if process.isdigit() and not _is_running(int(process)):
            with suppress(OSError):
                remove(part)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # a process of another user
        return True
    return True


def _new_folder(folder: Path) -> None:
    remove(folder)
    folder.mkdir()


@contextmanager
def _temporary(path: Path, mark: str, make: Callable[[Path], object]) -> Iterator[Path]:
    """Yield the temporary path that ``make`` creates in the folder of ``path``; remove it if the block fails."""
    part = path.with_name(f".{path.name}.{mark}{PART}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        make(part)
    except OSError as error:
        raise write_error(path, error) from error
    try:
        yield part
    except BaseException as error:
        remove(part)
        if isinstance(error, OSError) and _is_of(part, error):
            raise write_error(path, error) from error
        raise


def _is_of(part: Path, error: OSError) -> bool:
    # An error that names another file is about that file.
    name = error.filename
    return not isinstance(name, str | os.PathLike) or Path(name).is_relative_to(part)


def _rename(part: Path, path: Path) -> None:
    part.replace(path)
    _sync(path.parent)
    reach("publish.renamed")


def sync_folder(path: Path) -> None:
    """Sync every file and folder under ``path`` to the disk."""
    for folder, _, names in os.walk(path):
        for name in names:
            _sync(Path(folder, name))
        _sync(Path(folder))


def refuse_folder(path: Path) -> None:
    """Check that ``path``, the path of a file, is not a folder.

    Raises:
        StoreError: if it is.
    """
    if path.is_dir():
        raise StoreError(
            f"{path}: is a folder, and a file is to be written there; move the folder away and run the same command to resume"
        )


def _sync(path: Path) -> None:
    """Sync a file or a folder to the disk; a rename is there only after its folder is synced."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Sealing:
    """A text file that is being written; ``seal`` returns the size and hash of its content so far."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._tally = Tally()

    def write(self, text: str) -> None:
        """Write the text, and add it to the seal."""
        self._out.write(text)
        self._tally.add(text.encode())

    def row(self, value: Any) -> None:
        """Write one line of JSON Lines."""
        self.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")

    def seal(self) -> Seal:
        """Return the seal of the content so far."""
        return self._tally.seal()


@contextmanager
def sealing(path: Path) -> Iterator[Sealing]:
    """Open a text file as ``publishing`` does, and remember its seal, so that it need not be read again to verify it.

    Raises:
        StoreError: if it cannot be written.
    """
    with publishing(path) as out:
        written = Sealing(out)
        yield written
    remember(path, written.seal())


def write_json(path: Path, value: Any) -> Seal:
    """Publish a JSON file with indentation."""
    with sealing(path) as out:
        out.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return out.seal()


def write_jsonl(path: Path, rows: Iterable[Any]) -> Seal:
    """Publish a JSON Lines file."""
    with sealing(path) as out:
        for row in rows:
            out.row(row)
    return out.seal()


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Publish a JSON object with a digest of its file name and its values under ``seal``."""
    # The digest is of the values as they are read: JSON converts tuples and keys.
    plain = json.loads(json.dumps(value, allow_nan=False))
    write_json(path, {**plain, SEAL: digest(path.name, plain)})


def read_sealed(path: Path, home: Path) -> dict[str, Any]:
    """Return the object that ``write_sealed`` wrote.

    Raises:
        DamageError: if the file is missing or has other values; it names the command that repairs the run ``home``.
    """
    try:
        value = json.loads(content(path))
    except OSError as error:
        raise unreadable(path, error, home) from error
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"is not JSON ({error})", home) from error
    if not isinstance(value, dict):
        raise damaged(path, "is not a JSON object", home)
    seal = value.pop(SEAL, None)
    if seal is None:
        raise damaged(path, "has no seal, so it cannot be verified", home)
    try:
        equal = seal == digest(path.name, value)
    except (ValueError, RecursionError):
        equal = False
    if not equal:
        raise damaged(path, "has other values than were written", home)
    return value


def check_folder(record: Path, home: Path) -> dict[str, Any]:
    """Return a sealed ``record`` after verifying each file in its folder that it lists under ``files``.

    Raises:
        DamageError: if one is missing or was changed; it names the command that repairs the run ``home``.
    """
    value = read_sealed(record, home)
    for name, seal in seals_of(value.get("files")).items():
        check(record.parent / name, seal, home)
    return value


def seals_of(value: Any) -> dict[str, Seal]:
    """Return the seals by file name from their JSON form."""
    return {str(name): Seal(*seal) for name, seal in dict(value or {}).items()}


def remove(path: Path) -> None:
    """Remove a file, or a folder with its content, if it exists."""
    if path.is_dir() and not path.is_symlink():
        try:
            shutil.rmtree(path)
        except OSError as error:
            # It names what is in the folder without its path.
            error.filename = error.filename if os.sep in str(error.filename) else str(path)
            raise
    else:
        with suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()


def read_jsonl(path: Path) -> Iterator[Any]:
    """Yield the rows of a JSON Lines file that nfilter wrote."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def read_json(path: Path) -> Any:
    """Return the value of a JSON file that nfilter wrote.

    Raises:
        StoreError: if it is missing or is not JSON.
    """
    try:
        return json.loads(content(path))
    except FileNotFoundError as error:
        raise StoreError(
            f"{path}: does not exist; is {path.parent} the directory of a finished run?"
        ) from error
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be read ({error.strerror or error}); {file_advice(path, error)}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path}:1: not JSON ({error}); remove it and run again") from error


def write_array(path: Path, values: Any) -> Seal:
    """Publish an array as ``.npy``, without pickle."""
    return _write_bytes(path, lambda out: np.save(out, np.asarray(values), allow_pickle=False))


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> Seal:
    """Publish named arrays of numbers as an uncompressed ``.npz`` file."""
    return _write_bytes(path, lambda out: np.savez(out, **arrays))


def _write_bytes(path: Path, write: Callable[[IO[bytes]], None]) -> Seal:
    buffer = io.BytesIO()
    write(buffer)
    return write_bytes(path, buffer.getvalue())


def write_bytes(path: Path, data: bytes) -> Seal:
    """Publish a file with these bytes."""
    tally = Tally()
    tally.add(data)
    with publishing_file(path) as part:
        part.write_bytes(data)
    remember(path, tally.seal())
    return tally.seal()
