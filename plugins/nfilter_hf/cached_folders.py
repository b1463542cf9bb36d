"""Folders in the user's cache, with digests of their files; a damaged folder is made again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from nfilter import StoreError, publishing_folder
from nfilter_hf.fingerprint import default_digests, digest_of

_DIGESTS: Final = "digests.json"


def is_valid(folder: Path) -> bool:
    """Whether ``folder`` exists with all of its files unchanged."""
    try:
        digests = json.loads((folder / _DIGESTS).read_text(encoding="utf-8"))
        return all(
            digest_of(folder / name, default_digests()) == digest
            for name, digest in digests.items()
        )
    except (OSError, ValueError, AttributeError):
        return False


def store(folder: Path, write: Callable[[Path], None]) -> bool:
    """Let ``write`` fill a new folder and publish it as ``folder``; return whether a valid folder then exists.

    A valid folder is not replaced, because another process may have published it in the meantime and may be reading it.
    """
    # If the cache cannot be written, the next run repeats the work.
    with suppress(OSError, StoreError, _MadeMeanwhileError), publishing_folder(folder) as part:
        write(part)
        digests = {path.name: digest_of(path) for path in sorted(part.iterdir())}
        (part / _DIGESTS).write_text(json.dumps(digests, indent=1), encoding="utf-8")
        if is_valid(folder):
            raise _MadeMeanwhileError
    return is_valid(folder)


class _MadeMeanwhileError(Exception):
    """Another process has published the folder; this process discards its own."""


def remove_others(folder: Path) -> None:
    """Remove the other folders in the same place, which are from earlier versions, but not temporary ones for ``folder``."""
    for other in folder.parent.iterdir() if folder.parent.is_dir() else ():
        if other != folder and not other.name.startswith(f".{folder.name}."):
            shutil.rmtree(other, ignore_errors=True)
