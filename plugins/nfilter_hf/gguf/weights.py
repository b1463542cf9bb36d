"""Cache of dequantised weights of small GGUF models.

transformers needs about ten seconds of processor time to dequantise 135 million weights, and one second to read the result.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from nfilter_hf.cached_folders import is_valid, remove_others, store
from nfilter_hf.fingerprint import cache_folder, default_digests, digest_of
from nfilter_hf.gguf.header import read_header
from nfilter_hf.gguf.model import made_by

_LARGEST: Final = 2**30  # bytes
_ROOM: Final = 8  # required free space as a multiple of the size


def unpacked(file: Path, load: Callable[[], Any]) -> Path | None:
    """Return the folder with the weights of ``file`` in float32 as safetensors; None if they are large or space is short.

    ``load`` returns the model of ``file`` in float32, or None if it is incomplete; it is called if nothing is cached. Results
    of earlier versions for the same file are then removed.
    """
    folder = _place(file)
    if is_valid(folder):
        return folder
    tensors = read_header(file).tensors.values()
    size = 4 * sum(math.prod(tensor.shape) for tensor in tensors)
    if size > _LARGEST or _free(folder) < _ROOM * size:
        return None
    module = load()
    if module is None:
        return None
    remove_others(folder)
    return folder if store(folder, module.save_pretrained) else None


def _place(file: Path) -> Path:
    return cache_folder() / "gguf-weights" / digest_of(file, default_digests()) / made_by()


def _free(folder: Path) -> int:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        return shutil.disk_usage(existing).free
    except OSError:
        return 0
