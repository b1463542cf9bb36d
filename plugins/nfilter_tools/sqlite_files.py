"""SQLite files, opened for reading only."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final
from urllib.parse import quote

JOURNALS: Final = ("-wal", "-journal")
"""Endings of the files that SQLite keeps beside a database in use."""


def open_read_only(file: Path) -> sqlite3.Connection:
    """Return a connection that cannot write. No journal is created beside the file; an existing one is read.

    Raises:
        sqlite3.Error: if there is no such file.
    """
    journals = (file.with_name(f"{file.name}{suffix}") for suffix in JOURNALS)
    mode = "mode=ro" if any(journal.exists() for journal in journals) else "mode=ro&immutable=1"
    return sqlite3.connect(
        f"file:{quote(str(file.resolve()))}?{mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
    )
