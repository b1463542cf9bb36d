"""Unpacked weights of small GGUF models, kept beside the user's other caches.

transformers takes about ten seconds of processor time to unpack 135 million weights, and a second to read them unpacked.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from nfilter_hf.fingerprint import cache_folder, default_digests, digest_of
from nfilter_hf.gguf_header import read_header
from nfilter_hf.gguf_model import made_by
from nfilter_hf.kept import forget_others, is_whole, keep

_LARGEST: Final = 2**30  # bytes
_ROOM: Final = 8  # times its size that has to be free


def unpacked(file: Path, load: Callable[[], Any]) -> Path | None:
    """The folder with what ``file`` holds in float32, as safetensors; None where it is large, or there is no room.

    ``load`` gives the model of ``file`` in float32, or None where it is not whole; it is called where nothing is kept yet.
    What earlier versions made of the same file is removed then.
    """
    folder = _place(file)
    if is_whole(folder):
        return folder
    tensors = read_header(file).tensors.values()
    size = 4 * sum(math.prod(tensor.shape) for tensor in tensors)
    if size > _LARGEST or _free(folder) < _ROOM * size:
        return None
    module = load()
    if module is None:
        return None
    forget_others(folder)
    return folder if keep(folder, module.save_pretrained) else None


def _place(file: Path) -> Path:
    return cache_folder() / "gguf-weights" / digest_of(file, default_digests()) / made_by()


def _free(folder: Path) -> int:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        return shutil.disk_usage(there).free
    except OSError:
        return 0
