"""Write safetensors files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from nfilter import publishing_file

if TYPE_CHECKING:
    from torch import Tensor


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write the tensors to ``path``, synced and atomically.

    Raises:
        StoreError: ``path`` cannot be written; what was there before is intact.
    """
    from safetensors.torch import save_file

    with publishing_file(path) as part, writing_tensors():
        save_file(dict(tensors), part, metadata=dict(metadata))


@contextmanager
def writing_tensors() -> Iterator[None]:
    """Convert write errors of safetensors, which also reports a full disk as its own error, to OSError.

    Raises:
        OSError: safetensors could not write a file.
    """
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise OSError(str(error)) from error
