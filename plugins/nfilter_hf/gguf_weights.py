"""Unpacked weights of small GGUF models, kept beside the user's other caches.

transformers takes about ten seconds of processor time to unpack 135 million weights, and a second to read them unpacked.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

from nfilter_hf.fingerprint import cache_folder, default_digests, digest_of
from nfilter_hf.gguf_model import made_by
from nfilter_hf.kept import is_whole, keep

_LARGEST: Final = 2**30  # bytes
_ROOM: Final = 8  # times its size that has to be free


def unpacked(file: Path) -> Path | None:
    """The folder with what ``file`` holds in float32, as safetensors; None where it is not kept."""
    folder = _place(file)
    return folder if is_whole(folder) else None


def keep_unpacked(module: Any, file: Path) -> None:
    """Keep the weights of ``module``, float32 and as ``file`` holds them, if they are small and there is room.

    What earlier versions made of the same file is removed.
    """
    folder = _place(file)
    size = 4 * sum(parameter.numel() for parameter in module.parameters())
    if size > _LARGEST or _free(folder) < _ROOM * size:
        return
    shutil.rmtree(folder.parent, ignore_errors=True)
    keep(folder, module.save_pretrained)


def _place(file: Path) -> Path:
    return cache_folder() / "gguf-weights" / digest_of(file, default_digests()) / made_by()


def _free(folder: Path) -> int:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        return shutil.disk_usage(there).free
    except OSError:
        return 0
