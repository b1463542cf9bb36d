"""The warnings of a run by what was at work: kept in its directory, so that a stage that is reused keeps its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from nfilter.store.files import publishing

FILE = "warnings.json"


class Warned:
    """Each warning once per stage, with how often it was said; ``file`` None keeps them in memory alone."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._counts = _read(file)

    def add(self, stage: str, text: str) -> None:
        """Count one warning."""
        self._counts[stage, text] = self._counts.get((stage, text), 0) + 1
        self._write()

    def forget(self, gone: Callable[[str], bool]) -> None:
        """Remove the warnings of the stages that begin anew or are no longer there."""
        kept = {key: count for key, count in self._counts.items() if not gone(key[0])}
        if len(kept) < len(self._counts):
            self._counts = kept
            self._write()

    def restart(self, stage: str) -> None:
        """Remove the warnings of a stage that begins anew."""
        self.forget(lambda known: known == stage)

    def told(self) -> list[dict[str, str | int]]:
        """The warnings in the order in which they came first: ``stage``, ``text`` and ``times``."""
        return [
            {"stage": stage, "text": text, "times": times}
            for (stage, text), times in self._counts.items()
        ]

    def _write(self) -> None:
        if self._file is not None:
            with publishing(self._file) as out:
                out.write(json.dumps(self.told(), ensure_ascii=True) + "\n")


def _read(file: Path | None) -> dict[tuple[str, str], int]:
    """What an earlier run left; nothing where it is damaged, as run.log has every warning too."""
    if file is None or not file.is_file():
        return {}
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        return {(str(row["stage"]), str(row["text"])): int(row["times"]) for row in rows}
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}
