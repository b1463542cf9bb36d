"""Web pages in place of files: a server that asks for a login, or shows a file, may send HTML with status 200."""

from __future__ import annotations

from typing import Final

PAGE_START: Final = 512
"""Bytes that tell whether a file is a web page."""
_MARKS: Final = (b"<!doctype html", b"<html")


def is_page(start: bytes, kind: str = "") -> bool:
    """Return whether a file is HTML.

    Args:
        start: Its first ``PAGE_START`` bytes, or all.
        kind: The ``Content-Type`` that a server named. It is not believed alone: some servers name every file so.
    """
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    html = kind.partition(";")[0].strip().lower() in ("text/html", "application/xhtml+xml")
    return text.startswith(_MARKS) or (html and text.startswith(b"<"))
