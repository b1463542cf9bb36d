"""runs.json: time, dollars and calls of each run in a directory, including runs that failed or were killed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nfilter.api.errors import DamageError, StoreError
from nfilter.report.reading import MANIFEST
from nfilter.report.runs import RUNS
from nfilter.store.begun_calls import count_unstored
from nfilter.store.files import read_sealed, write_sealed
from nfilter.store.journal import Journal

Complain = Callable[[str], None]


class Ledger:
    """The runs of one directory: ``{"began", "ended", "seconds", "usd", "calls", "lent"}`` each; the last is this run.

    ``ended`` is ``done``, ``stopped``, ``failed: ERROR`` or ``killed``. A killed run has no seconds (null), and gets the
    dollars and calls of the journal that no other run accounts for. ``calls`` counts paid answers, ``lent`` answers from the
    journals of other runs.
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
    def recorded(self) -> Iterator[None]:
        """Record this run when the block starts, and again if it fails."""
        self._runs = [*self._before(), self._now(None)]
        self._write()
        try:
            yield
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt)
            # An error of the disk must not hide this error.
            with suppress(StoreError):
                self.note("stopped" if stopped else f"failed: {type(error).__name__}")
            raise

    def note(self, ended: str) -> list[dict[str, Any]]:
        """Record how this run ended, with its time and cost so far; return all runs."""
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
        """The earlier runs. One without an end was killed: it gets the cost that no other run accounts for."""
        runs: list[dict[str, Any]] = []
        if self._file.exists():
            try:
                runs = read_sealed(self._file, self._file.parent).get("runs", [])
            except DamageError as error:
                self._complain(f"{error.path} {error.what}; the earlier runs are shown as one")
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
    """Open the journal of the run in ``out``, and count what a killed process paid and did not store.

    Raises:
        StoreError: if it cannot be read, or if it is empty although the run made calls.
    """
    file = out / "journal.db"
    journal = Journal(file, lenders, complain)
    try:
        calls = read_sealed(out / MANIFEST, out).get("calls") if (out / MANIFEST).exists() else None
    except DamageError as error:
        complain(f"{error.path} {error.what}; it is written again when the run ends")
        calls = None
    if calls and not journal.answers():
        journal.close()
        raise StoreError(
            f"{file}: has no calls, and the run made some; restore it from a backup, or move {out} away and run again, which "
            "repeats all calls"
        )
    count_unstored(out, journal, complain)
    return journal
