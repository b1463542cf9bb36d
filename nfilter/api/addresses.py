"""Addresses (``scheme://...``) in texts: whether a text is one, and a text in which they show no secret."""

from __future__ import annotations

import re

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# A path object leaves one of the two slashes. A match ends where its address does, so that matching time is linear.
_SHOWN = re.compile(r"(:/+)([^\s?#]*)([?#]\S*)?")
_HOST = re.compile(r"(?:\[[^\]]*\]|[^:@]*)(?::[0-9]*)?")
_ENDS = "'\"`,.:;()[]{}<>"


def is_address(text: str) -> bool:
    """Return whether ``text`` is an address and not a path of this machine."""
    return _ADDRESS.match(text) is not None


def without_secrets(text: str) -> str:
    """Return ``text`` with its addresses cut: no user or key before a host, no query, no fragment."""
    return _SHOWN.sub(_cut, text) if ":/" in text else text


def _cut(found: re.Match[str]) -> str:
    start, place, query = found[1], found[2], found[3] or ""
    host, slash, path = place.partition("/")
    if not _HOST.fullmatch(host):
        # A user and a key, which may hold slashes: all up to the last @ in what is not the name of a host.
        _, at, rest = (host if "@" in host else place).rpartition("@")
        place = f"***@{rest}{slash + path if '@' in host else ''}" if at else place
    # Marks of the sentence around the address stay.
    return f"{start}{place}" + (
        f"{query[0]}***{query[len(query.rstrip(_ENDS)) :]}" if query else ""
    )
