"""What a run says of the rows of its source, and whose warnings an earlier run leaves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nfilter.api.types import Unreadable
from nfilter.engine.ingest import QUARANTINE, Ingested
from nfilter.progress import RunLog
from nfilter.recipe.not_carried import warnings_of
from nfilter.recipe.readable import Readable
from nfilter.store.files import read_jsonl


def told(log: RunLog, directory: Path, done: Ingested) -> Ingested:
    """Warn of rows that cannot be read, with the reasons, and of what rows hold that no sample carries; returns ``done``."""
    if done.unreadable:
        total = done.read + done.unreadable
        log.warning(
            f"source: {done.unreadable:,} of {total:,} rows cannot be read (quarantine.jsonl){_why(directory)}"
        )
    for warning in warnings_of(done.not_carried, done.read):
        log.warning(f"source: {warning}")
    return done


def _why(directory: Path) -> str:
    """The reasons in the quarantine; nothing where it is damaged, which ends no run."""
    try:
        gone = read_jsonl(directory / QUARANTINE)
        return f": {Readable(Unreadable(row['line'], row['error'], '') for row in gone).why()}"
    except (ValueError, KeyError, TypeError, OSError):
        return ""


def lost(ingested: Ingested) -> dict[str, Any]:
    """The figures of what rows hold that no sample carries."""
    return {"not_carried": dict(ingested.not_carried)} if ingested.not_carried else {}


def lasting(stage: str) -> bool:
    """Whether an earlier run's warnings of a stage may still hold: it published what this run may take as it is."""
    return stage == "source" or stage[:2].isdigit()
