"""What each run in a directory took: time, dollars and calls, those of runs that failed or were killed too."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nfilter.api.errors import DamageError, StoreError
from nfilter.report.reading import MANIFEST
from nfilter.report.runs import RUNS
from nfilter.store.files import read_sealed, write_sealed
from nfilter.store.journal import Journal

Complain = Callable[[str], None]


class Ledger:
    """The runs of one directory, in runs.json: ``{"began", "ended", "seconds", "usd", "calls", "lent"}`` each, the last is this one.

    ``ended`` is ``done``, ``stopped``, ``failed: ERROR`` or ``killed``; of a run that was killed the seconds are not known
    (null), and the dollars and calls are what the journal has more than all others account for. ``calls`` counts answers
    that were paid for, ``lent`` those that another run's journal gave.
    """

    def __init__(self, out: Path, journal: Journal, complain: Complain) -> None:
        self._file = out / RUNS
        self._journal = journal
        self._complain = complain
        self._runs: list[dict[str, Any]] = []
        self._start = time.monotonic()
        self._began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._usd, self._calls = journal.usd(), journal.answers()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Have this run on record from its beginning to its end, however it ends."""
        self._runs = [*self._before(), self._now(None)]
        self._write()
        try:
            yield
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt)
            # What is wrong with the disk must not hide what went wrong.
            with suppress(StoreError):
                self.note("stopped" if stopped else f"failed: {type(error).__name__}")
            raise

    def note(self, ended: str) -> list[dict[str, Any]]:
        """Have on record how this run ended, and what it took until now; all runs."""
        self._runs[-1] = self._now(ended)
        self._write()
        return self._runs

    def _write(self) -> None:
        write_sealed(self._file, {"runs": self._runs})

    def _now(self, ended: str | None) -> dict[str, Any]:
        lent = self._journal.lent
        return {
            "began": self._began,
            "ended": ended,
            "seconds": time.monotonic() - self._start,
            "usd": self._journal.usd() - self._usd,
            "calls": self._journal.answers() - self._calls - lent,
            "lent": lent,
        }

    def _before(self) -> list[dict[str, Any]]:
        """The runs on record. One without an end was killed: it gets what nobody else accounts for."""
        runs: list[dict[str, Any]] = []
        if self._file.exists():
            try:
                runs = read_sealed(self._file, self._file.parent).get("runs", [])
            except DamageError as error:
                self._complain(f"{error.path} {error.what}; what earlier runs took is told as one")
        open_run = runs.pop() if runs and runs[-1]["ended"] is None else None
        rest = {
            "usd": max(0.0, self._usd - sum(run["usd"] for run in runs)),
            "calls": max(0, self._calls - sum(run["calls"] + run["lent"] for run in runs)),
            "lent": 0,
        }
        if open_run is not None:
            runs.append({**open_run, "ended": "killed", "seconds": None, **rest})
        elif not runs and rest["calls"]:
            runs.append({"began": None, "ended": "not on record", "seconds": None, **rest})
        return runs


def open_journal(out: Path, lenders: Sequence[Path], complain: Complain) -> Journal:
    """The journal of the run in ``out``.

    Raises:
        StoreError: when it cannot be read, or is empty where the run made calls.
    """
    file = out / "journal.db"
    journal = Journal(file, lenders, complain)
    try:
        asked = read_sealed(out / MANIFEST, out).get("calls") if (out / MANIFEST).exists() else None
    except DamageError as error:
        complain(f"{error.path} {error.what}; it is written anew when the run ends")
        asked = None
    if asked and not journal.answers():
        journal.close()
        raise StoreError(
            f"{file}: holds no call, and the run made some; put a whole copy back, or move {out} away and run again: all "
            "calls are then made anew"
        )
    return journal
