"""A ranking of samples as state arrays: the hash of the id and the rank, 16 bytes per sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from nfilter import place_of, rows_by_id


def rank_arrays(ids: Sequence[str] | npt.NDArray[np.uint64]) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a ranking in which the first of ``ids``, or of their hashes, has rank 1."""
    return rows_by_id(ids, ranks=np.arange(1, len(ids) + 1))


def rank_of(name: str, arrays: Mapping[str, npt.NDArray[Any]]) -> int | None:
    """Return the rank of the sample with id ``name``, or None if it was not ranked."""
    index = place_of(arrays["ids"], name)
    return None if index is None else int(arrays["ranks"][index])


def floor_share(share: float, n: int) -> int:
    """Return floor(share * n) in decimal arithmetic; 0.29 * 100 is 28.999999999999996 in binary."""
    return math.floor(Decimal(str(share)) * n)
