"""A ranking of samples as a state: 16 bytes a sample, the hash of its id and its rank."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from nfilter import hash_of, place_of


def ranked(ids: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Arrays of a ranking in which the first of ``ids`` has rank 1."""
    keys = np.array([hash_of(name) for name in ids], dtype=np.uint64)
    order = np.argsort(keys, kind="stable")
    return {"ids": keys[order], "ranks": (order + 1).astype(np.int64)}


def rank_of(name: str, arrays: Mapping[str, npt.NDArray[Any]]) -> int | None:
    """The rank of the sample with id ``name``; None where it was not ranked."""
    place = place_of(arrays["ids"], name)
    return None if place is None else int(arrays["ranks"][place])


def share_of(share: float, n: int) -> int:
    """floor(share * n), in decimal as the recipe has it: 0.29 * 100 is 28.999999999999996 in binary."""
    return math.floor(Decimal(str(share)) * n)
