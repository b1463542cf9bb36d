"""Files that are made from others and that many cells read."""

from __future__ import annotations

from pathlib import Path

from nfilter.store.files import publishing


def write_once(file: Path, text: str) -> Path:
    """Write ``text`` whole, unless that is what the file holds: its time then stays what it was."""
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        with publishing(file) as out:
            out.write(text)
    return file
