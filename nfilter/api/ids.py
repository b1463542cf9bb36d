"""A sample's id as a number: what states and files keep in its place, and what memory has of a million of them."""

from __future__ import annotations

import hashlib
from array import array
from typing import Any

import numpy as np
import numpy.typing as npt


def hash_of(text: str) -> int:
    """64 bits of SHA-256 of ``text``, the same everywhere: for sorted uint64 arrays that stand for a list of ids."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")


def place_of(keys: npt.NDArray[Any], text: str) -> int | None:
    """Where ``hash_of(text)`` stands in ``keys``, sorted uint64 [n]; None where it does not."""
    key = np.uint64(hash_of(text))
    place = int(np.searchsorted(keys, key))
    return place if place < len(keys) and keys[place] == key else None


class SeenTexts:
    """Which texts were seen before, as hashes of 64 bits: 12 to 24 bytes a text, however long it is.

    Of a million texts, two different ones are taken for the same with a probability of 3e-8.
    """

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * 1024))
        self._count = 0

    def __len__(self) -> int:
        """How many different texts were seen."""
        return self._count

    def first(self, text: str) -> bool:
        """Whether ``text`` is seen for the first time; from now on it was."""
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
        slots, mask = self._slots, len(self._slots) - 1
        place = number & mask
        while (there := slots[place]) != number:
            if not there:
                slots[place] = number
                return True
            place = (place + 1) & mask
        return False
