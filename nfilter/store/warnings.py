"""The warnings of a run by stage, stored in its directory, so that a reused stage keeps its warnings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from nfilter.store.files import publishing

FILE = "warnings.json"


class RunWarnings:
    """The distinct warnings of each stage with their counts. They are stored in ``file``, or only in memory if it is None."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._counts = _read(file)

    def add(self, stage: str, text: str) -> None:
        """Count one warning."""
        self._counts[stage, text] = self._counts.get((stage, text), 0) + 1
        self._write()

    def forget(self, gone: Callable[[str], bool]) -> None:
        """Remove the warnings of the stages for which ``gone`` is true: removed from the recipe, or run again."""
        kept = {key: count for key, count in self._counts.items() if not gone(key[0])}
        if len(kept) < len(self._counts):
            self._counts = kept
            self._write()

    def restart(self, stage: str) -> None:
        """Remove the warnings of a stage that runs again."""
        self.forget(lambda known: known == stage)

    def rows(self) -> list[dict[str, str | int]]:
        """Return the warnings in order of first occurrence: ``stage``, ``text`` and ``times``."""
        return [
            {"stage": stage, "text": text, "times": times}
            for (stage, text), times in self._counts.items()
        ]

    def _write(self) -> None:
        if self._file is not None:
            with publishing(self._file) as out:
                out.write(json.dumps(self.rows(), ensure_ascii=True) + "\n")


def _read(file: Path | None) -> dict[tuple[str, str], int]:
    """The warnings of an earlier run; empty if the file is damaged, because run.log has them too."""
    if file is None or not file.is_file():
        return {}
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        return {(str(row["stage"]), str(row["text"])): int(row["times"]) for row in rows}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}
