"""Ids of samples as 64-bit hashes, for compact states, files and sets."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nfilter.api.errors import ContractError


def hash_of(text: str) -> int:
    """Return the first 64 bits of the SHA-256 of ``text``, for sorted uint64 arrays that replace lists of ids."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")


def place_of(keys: npt.NDArray[Any], text: str) -> int | None:
    """Return the index of ``hash_of(text)`` in ``keys``, a sorted uint64 array [n]; None if it is absent."""
    key = np.uint64(hash_of(text))
    index = int(np.searchsorted(keys, key))
    return index if index < len(keys) and keys[index] == key else None


def rows_by_id(
    ids: Sequence[str] | npt.NDArray[np.uint64], **columns: npt.NDArray[Any]
) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a stage's state with one row per sample: ``ids``, sorted hashes, and the columns in the same order.

    Args:
        ids: The ids of the samples, or their hashes.
        columns: Arrays [n, ...] in the order of ``ids``.
    """
    keys = ids if isinstance(ids, np.ndarray) else np.array(list(map(hash_of, ids)), np.uint64)
    order = np.argsort(keys, kind="stable")
    return {"ids": keys[order], **{name: column[order] for name, column in columns.items()}}


def row_of(arrays: Mapping[str, npt.NDArray[Any]], sample_id: str, stage: str) -> int:
    """Return the row of a sample in the arrays of ``rows_by_id``.

    Raises:
        ContractError: if ``stage`` did not receive the sample when it was fitted.
    """
    row = place_of(arrays["ids"], sample_id)
    if row is None:
        raise ContractError(
            f"{stage}: sample {sample_id!r} was absent when the stage was fitted; a stage in between must not change ids"
        )
    return row


class SeenTexts:
    """A set of texts, stored as 64-bit hashes: 12 to 24 bytes per text of any length.

    For a million texts, the probability that two different ones have the same hash is 3e-8.
    """

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * 1024))
        self._count = 0

    def __len__(self) -> int:
        """Return the number of different texts."""
        return self._count

    def first(self, text: str) -> bool:
        """Add ``text``; return whether it is new."""
        # 0 marks a free slot.
        if not self._put(hash_of(text) or 1):
            return False
        self._count += 1
        if 3 * self._count > 2 * len(self._slots):
            old, self._slots = self._slots, array("Q", bytes(16 * len(self._slots)))
            for number in old:
                if number:
                    self._put(number)
        return True

    def _put(self, number: int) -> bool:
        """Insert by linear probing; return False if the number is present."""
        slots, mask = self._slots, len(self._slots) - 1
        slot = number & mask
        while (present := slots[slot]) != number:
            if not present:
                slots[slot] = number
                return True
            slot = (slot + 1) & mask
        return False
