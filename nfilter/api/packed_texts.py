"""Texts in a stage's state as two arrays, which are stored on disk and memory-mapped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class PackedTexts:
    """n texts as ``data`` (uint8, the concatenated UTF-8) and ``ends`` (int64 [n]): 8 bytes per text more than its UTF-8."""

    data: npt.NDArray[np.uint8]
    ends: npt.NDArray[np.int64]

    @classmethod
    def of(cls, texts: Iterable[str]) -> PackedTexts:
        """Pack ``texts``; lone surrogates are preserved."""
        data, ends = bytearray(), []
        for text in texts:
            data += text.encode("utf-8", "surrogatepass")
            ends.append(len(data))
        return cls(np.frombuffer(bytes(data), dtype=np.uint8), np.array(ends, dtype=np.int64))

    @classmethod
    def open(cls, arrays: Mapping[str, npt.NDArray[Any]], name: str) -> PackedTexts:
        """Return the texts that a state has under ``name``."""
        return cls(arrays[f"{name}_bytes"], arrays[f"{name}_ends"])

    def arrays(self, name: str) -> dict[str, npt.NDArray[Any]]:
        """Return the two arrays of a state, named after ``name``."""
        return {f"{name}_bytes": self.data, f"{name}_ends": self.ends}

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        """Return the text at ``index``, from 0."""
        if not 0 <= index < len(self.ends):
            raise IndexError(f"text {index} of {len(self.ends)}")
        start = int(self.ends[index - 1]) if index else 0
        return self.data[start : int(self.ends[index])].tobytes().decode("utf-8", "surrogatepass")
