"""Read the header of a GGUF file without torch, transformers or the package gguf.

The format is described in ggml's docs/gguf.md: magic and version, counts, keys with typed values, then name, shape, type and
offset of each tensor, and their data from the next multiple of the alignment.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import mul
from pathlib import Path
from typing import Any, Final

from nfilter import ModelError

SUFFIX: Final = ".gguf"
_VERSIONS: Final = (2, 3)
_SCALARS: Final = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_MIN_SIZE: Final = 24  # bytes: magic, version and two counts
# Type of a tensor: its name, and the values and bytes per block (gguf's GGML_QUANT_SIZES).
_TYPES: Final = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor's shape (rows last, as in the file), the number of its type, and its offset in the data."""

    shape: tuple[int, ...]
    kind: int
    offset: int

    @property
    def size(self) -> int | None:
        """Its size in bytes; None for an unknown type."""
        if self.kind not in _TYPES:
            return None
        _, values, width = _TYPES[self.kind]
        return -(-reduce(mul, self.shape, 1) // values) * width


@dataclass(frozen=True, slots=True)
class Header:
    """Keys and tensors of a GGUF file, the size of the header, and the offset of the tensors' data, both in bytes.

    For a list of texts, such as the vocabulary, ``values`` has only its length.
    """

    values: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    size: int
    data_start: int

    @property
    def architecture(self) -> str:
        return str(self.values.get("general.architecture", ""))

    def of_model(self, key: str) -> Any:
        """Return the value of a key that has the architecture's name as prefix; None if it is absent."""
        return self.values.get(f"{self.architecture}.{key}")

    @property
    def context(self) -> int | None:
        """The context length in tokens; None if the file does not have it."""
        known = self.of_model("context_length")
        return known if isinstance(known, int) and known > 0 else None


def read_header(path: Path) -> Header:
    """Read the header of the GGUF file at ``path`` without its weights.

    Raises:
        ModelError: if the file is empty, truncated, or of another format or version; the message has the remedy.
    """
    try:
        size = path.stat().st_size
        if size == 0:
            raise ModelError(f"{path} is empty: copy or download it again")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(path, data, size).header()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error


class _Reader:
    """Reads a memory-mapped file sequentially, with bounds checks."""

    def __init__(self, path: Path, data: mmap.mmap, size: int) -> None:
        self._path, self._data, self._size = path, data, size
        self._at = 0

    def header(self) -> Header:
        tensors, keys = self._opening()
        values: dict[str, Any] = {}
        for _ in range(keys):
            name = self._text()
            values[name] = self._value(self._number("<I"))
        by_name = {}
        for _ in range(tensors):
            name = self._text()
            shape = tuple(self._number("<Q") for _ in range(self._bounded("<I", 8)))
            by_name[name] = Tensor(shape, self._number("<I"), self._number("<Q"))
        align = values.get("general.alignment", 32)
        if not isinstance(align, int) or align <= 0:
            raise self._fault(f"has the alignment {align!r}")
        header = Header(values, by_name, self._at, -(-self._at // align) * align)
        if not header.architecture:
            raise self._fault("names no architecture (general.architecture)")
        self._check_size(header)
        return header

    def _opening(self) -> tuple[int, int]:
        """The numbers of tensors and of keys."""
        start = self._data[:_MIN_SIZE]
        if start.startswith(b"version https://git-lfs"):
            raise ModelError(
                f"{self._path} is a Git LFS pointer, not the file itself: run 'git lfs pull' in its folder"
            )
        if not start.startswith(b"GGUF"):
            raise ModelError(
                f"{self._path} is not a GGUF file: it begins with {start[:4]!r} and not with b'GGUF'; download it again, or "
                "give a folder with config.json and *.safetensors"
            )
        self._at = 4
        version = self._number("<I")
        if version not in _VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            what = (
                "for big-endian machines" if swapped in _VERSIONS else f"of GGUF version {version}"
            )
            raise ModelError(
                f"{self._path} is {what}, and only versions 2 and 3 in little-endian order are supported: convert the model "
                "again with a current llama.cpp"
            )
        return self._number("<Q"), self._number("<Q")

    def _check_size(self, header: Header) -> None:
        """Raise ModelError if the file ends before its tensors."""
        start = header.data_start
        ends = [start + each.offset + (each.size or 0) for each in header.tensors.values()]
        needed = max(ends, default=start)
        if needed > self._size:
            raise ModelError(
                f"{self._path} is truncated: it has {self._size:,} bytes, and its weights end at byte {needed:,}; copy or "
                "download it again"
            )

    def _value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _STRING:
            return self._text()
        if kind != _ARRAY:
            raise self._fault(f"has a value of the unknown type {kind}")
        of, count = self._number("<I"), self._number("<Q")
        if of == _STRING:
            for _ in range(count):
                self._skip(self._number("<Q"))
            return count
        if of not in _SCALARS:
            raise self._fault(f"has a list of the unknown type {of}")
        form = f"<{{}}{_SCALARS[of][1]}"
        width = struct.calcsize(form.format(1))
        start = self._at
        self._skip(count * width)
        return list(struct.unpack_from(form.format(count), self._data, start))

    def _bounded(self, form: str, most: int) -> int:
        value: int = self._number(form)
        if value > most:
            raise self._fault(f"has a tensor of {value} dimensions")
        return value

    def _number(self, form: str) -> Any:
        start = self._at
        self._skip(struct.calcsize(form))
        return struct.unpack_from(form, self._data, start)[0]

    def _text(self) -> str:
        size = self._number("<Q")
        start = self._at
        self._skip(size)
        return self._data[start : self._at].decode("utf-8", "replace")

    def _skip(self, size: int) -> None:
        if size > self._size - self._at:
            raise ModelError(
                f"{self._path} is truncated: it has {self._size:,} bytes and ends within its header; copy or download it again"
            )
        self._at += size

    def _fault(self, what: str) -> ModelError:
        return ModelError(f"{self._path} {what}, so it is damaged: copy or download it again")
