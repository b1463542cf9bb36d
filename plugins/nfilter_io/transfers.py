"""What a place of files says of one: its version, its size, and how it is copied; and why it cannot be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

COPY_IT: Final = "copy the file to this machine and name it in `path`"

Advance: TypeAlias = Callable[[int], object]
"""Is called with the number of bytes that came since the last call."""


class TransferError(Exception):
    """Why a file is not copied; the message does not have its address."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A file at an address.

    ``version`` tells this version of the file from others, None if nothing does. ``size`` is the number of bytes to come, None if
    unknown. ``save`` copies the file to a path.
    """

    version: Mapping[str, str] | None
    size: int | None
    save: Callable[[Path, Advance], None]
