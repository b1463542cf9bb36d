"""The dollars of all calls that were begun in a run, in the file ``begun.json``, which is ahead of the journal while calls run.

The file is written before each attempt of a call that costs money, with the maximum cost of the attempt, and after it, with its cost.
A kill leaves in it what the journal lacks: attempts that were running, and answers that were not stored yet.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from nfilter.api.budget import Budget, dollars
from nfilter.api.file_errors import write_error
from nfilter.store.journal import Journal, paid_in, sealed_row, undamaged

BEGUN: Final = "begun.json"
_WIDTH: Final = 80  # bytes: a record replaces the one before it in place
_ROUNDING: Final = 1e-9  # of the sums of many costs, in other orders


def count_unstored(run: Path, journal: Journal, complain: Callable[[str], None]) -> None:
    """Add to the journal what it lacks of the calls begun in the folder ``run``; a provider may have charged for them."""
    begun = _read(run / BEGUN)
    if begun is None:
        if (run / BEGUN).exists():
            complain(
                f"{run / BEGUN}: is damaged, so calls that were running when an earlier process was killed are not counted as paid"
            )
        return
    usd = begun - journal.usd()
    if usd > _ROUNDING * (1 + begun):
        journal.commit([], [], [("killed", "", usd)])
        complain(
            f"{dollars(usd)} of calls have no answer in the journal, because the process was killed while they ran or before their answers "
            "were stored; a provider may have charged for them, so they count as paid, at their maximum"
        )


def paid_in_run(run: Path) -> float:
    """Return the dollars that count as paid in the folder ``run``; 0 if there is no run in it."""
    return max(paid_in(run / "journal.db"), _read(run / BEGUN) or 0.0)


@contextmanager
def recording_begun(run: Path, journal: Journal, budget: Budget | None) -> Iterator[None]:
    """Within the block, keep the file of the folder ``run`` up to date with the calls that ``budget`` pays for."""
    if budget is None:
        yield
        return
    before = journal.usd()
    with _Record(run / BEGUN) as record:
        budget.record_begun(lambda usd: record.write(before + usd))
        try:
            yield
        finally:
            budget.record_begun(None)


class _Record:
    """The file, which is created by the first call that costs money."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def __enter__(self) -> _Record:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def write(self, usd: float) -> None:
        """Replace the record. It survives a kill, but is not synced: a failure of the machine may lose the last seconds.

        Raises:
            StoreError: if the file cannot be written.
        """
        try:
            if self._file is None:
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
            os.pwrite(self._file, _packed(usd), 0)
        except OSError as error:
            raise write_error(self._path, error) from error


def _packed(usd: float) -> bytes:
    (usd, seal) = sealed_row(usd)
    return f'{{"usd": {usd!r}, "seal": "{seal}"}}'.ljust(_WIDTH - 1).encode() + b"\n"


def _read(path: Path) -> float | None:
    """Return the dollars in the file; None if there is none, or if it is damaged."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads(path.read_bytes())
        usd = record["usd"]
        if isinstance(usd, float) and undamaged((usd, record["seal"])) and 0 <= usd < math.inf:
            return usd
    return None
