"""A sample's id as a number: what states and files keep in its place."""

from __future__ import annotations

import hashlib


def hash_of(text: str) -> int:
    """64 bits of SHA-256 of ``text``, the same everywhere: for sorted uint64 arrays that stand for a list of ids."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")
