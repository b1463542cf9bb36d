"""The embedded default: a small trained model, its task world and its data sets.

Importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from nfilter_tiny.world import rows

MODEL_DIR: Final = Path(__file__).resolve().parent / "model"

__all__ = ["MODEL_DIR", "rows"]
