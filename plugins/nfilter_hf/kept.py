"""Folders that are made once and kept in the user's cache: whole and as they were made, or made again."""

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


def is_whole(folder: Path) -> bool:
    """Whether ``folder`` is there, and each file in it is what was written."""
    try:
        digests = json.loads((folder / _DIGESTS).read_text(encoding="utf-8"))
        return all(
            digest_of(folder / name, default_digests()) == digest
            for name, digest in digests.items()
        )
    except (OSError, ValueError, AttributeError):
        return False


def keep(folder: Path, write: Callable[[Path], None]) -> bool:
    """Let ``write`` fill a new folder, and put it in the place of ``folder``; whether that is there and whole then.

    A folder that is whole is left as it is: another process may have made it in the meantime, and reads it.
    """
    # A home that cannot be written costs the next run the same seconds, and another process may have been first.
    with suppress(OSError, StoreError, _MadeMeanwhileError), publishing_folder(folder) as part:
        write(part)
        digests = {path.name: digest_of(path) for path in sorted(part.iterdir())}
        (part / _DIGESTS).write_text(json.dumps(digests, indent=1), encoding="utf-8")
        if is_whole(folder):
            raise _MadeMeanwhileError
    return is_whole(folder)


class _MadeMeanwhileError(Exception):
    """Another process has made the folder; what this one wrote is discarded."""


def forget_others(folder: Path) -> None:
    """Remove what stands beside ``folder``, but for what processes are filling for it: it is of earlier versions."""
    for other in folder.parent.iterdir() if folder.parent.is_dir() else ():
        if other != folder and not other.name.startswith(f".{folder.name}."):
            shutil.rmtree(other, ignore_errors=True)
