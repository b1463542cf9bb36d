"""Texts in a stage's state: bytes and where each ends, which a state keeps on disk and memory-maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class PackedTexts:
    """n texts as ``data`` (uint8, their UTF-8 one behind the other) and ``ends`` (int64 [n]); 8 bytes a text above its own."""

    data: npt.NDArray[np.uint8]
    ends: npt.NDArray[np.int64]

    @classmethod
    def of(cls, texts: Iterable[str]) -> PackedTexts:
        """Pack ``texts``; half a character of a damaged row survives."""
        data, ends = bytearray(), []
        for text in texts:
            data += text.encode("utf-8", "surrogatepass")
            ends.append(len(data))
        return cls(np.frombuffer(bytes(data), dtype=np.uint8), np.array(ends, dtype=np.int64))

    @classmethod
    def open(cls, arrays: Mapping[str, npt.NDArray[Any]], name: str) -> PackedTexts:
        """The texts that a state holds under ``name``."""
        return cls(arrays[f"{name}_bytes"], arrays[f"{name}_ends"])

    def arrays(self, name: str) -> dict[str, npt.NDArray[Any]]:
        """What a state keeps: two arrays, named after ``name``."""
        return {f"{name}_bytes": self.data, f"{name}_ends": self.ends}

    def __len__(self) -> int:
        """How many texts there are."""
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        """The text at ``index``, counted from 0."""
        if not 0 <= index < len(self.ends):
            raise IndexError(f"text {index} of {len(self.ends)}")
        start = int(self.ends[index - 1]) if index else 0
        return self.data[start : int(self.ends[index])].tobytes().decode("utf-8", "surrogatepass")
