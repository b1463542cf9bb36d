"""Warnings about the rows of a source, and which warnings of an earlier run are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nfilter.api.types import Unreadable
from nfilter.engine.ingest import QUARANTINE, Ingested
from nfilter.progress import RunLog
from nfilter.recipe.not_carried import warnings_of
from nfilter.recipe.readable import Readable
from nfilter.store.files import read_jsonl


def warn_of_rows(log: RunLog, directory: Path, done: Ingested) -> Ingested:
    """Warn of unreadable rows, with the reasons, and of row content that samples cannot represent; return ``done``."""
    if done.unreadable:
        total = done.read + done.unreadable
        log.warning(
            f"source: {done.unreadable:,} of {total:,} rows cannot be read (quarantine.jsonl){_why(directory)}"
        )
    for warning in warnings_of(done.not_carried, done.read):
        log.warning(f"source: {warning}")
    return done


def _why(directory: Path) -> str:
    """The reasons in the quarantine; empty if it is damaged, because this must not end a run."""
    try:
        rows = read_jsonl(directory / QUARANTINE)
        return f": {Readable(Unreadable(row['line'], row['error'], '') for row in rows).why()}"
    except (ValueError, KeyError, TypeError, OSError):
        return ""


def not_carried_figures(ingested: Ingested) -> dict[str, Any]:
    """Return the counts of row content that samples cannot represent, for metrics.json."""
    return {"not_carried": dict(ingested.not_carried)} if ingested.not_carried else {}


def keeps_warnings(stage: str) -> bool:
    """Whether the warnings of a stage in an earlier run may still apply: this run may reuse the stage's artefact."""
    return stage == "source" or stage[:2].isdigit()
