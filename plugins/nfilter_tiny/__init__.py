"""The embedded default: a small trained model, its task world and its datasets.

Importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from nfilter import hookimpl
from nfilter_tiny.world import rows

MODEL_DIR: Final = Path(__file__).resolve().parent / "model"

__all__ = ["MODEL_DIR", "rows"]


@hookimpl
def nfilter_sources() -> list[type]:
    """Return the source of the task world."""
    from nfilter_tiny.source import TinySource

    return [TinySource]


@hookimpl
def nfilter_models() -> Mapping[str, Path]:
    """Return the folder of ``tiny``."""
    return {"tiny": MODEL_DIR}
