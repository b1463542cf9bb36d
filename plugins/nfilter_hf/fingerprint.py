"""What a model's answers depend on, as one SHA-256."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from nfilter import JSON
from nfilter_hf.remembered import recall, remember

_PATTERNS = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "vocab*",
    "merges.txt",
    "*.tiktoken",
    "tekken.json",
)
_LARGE = 64 * 2**20


def model_files(place: Path) -> list[Path]:
    """The files of a checkpoint that decide what it answers, by name: those of a folder, or the one that is all of it."""
    if place.is_file():
        return [place]
    folder = place
    found = {path for pattern in _PATTERNS for path in folder.glob(pattern) if path.is_file()}
    return sorted(found)


def fingerprint(
    place: Path | None, settings: Mapping[str, JSON], digests: Path | None = None
) -> str:
    """SHA-256 over the checkpoint that ``place`` is or holds, if there is one to read, and over ``settings``.

    ``digests`` is a file that remembers the digests of large files by path, size and time of change.
    """
    total = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in model_files(place) if place is not None else ():
        # A file that is all of a checkpoint may have any name.
        name = path.name if path != place else path.suffix
        size = path.stat().st_size
        total.update(f"{name}\0{size}\0{digest_of(path, digests)}\n".encode())
    return total.hexdigest()


def cache_folder() -> Path:
    """nfilter's own folder among the user's caches."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "nfilter"


def default_digests() -> Path:
    """Where digests of large files are remembered between runs."""
    return cache_folder() / "digests.json"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(path: Path, remembered: Path | None = None) -> str:
    """SHA-256 of a file; of a large one as ``remembered`` has it, unless its size or time of change is another."""
    stat = path.stat()
    if remembered is None or stat.st_size < _LARGE:
        return file_sha256(path)
    key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    known = {name: str(digest) for name, digest in recall(remembered).items()}
    if key not in known:
        known[key] = file_sha256(path)
        remember(remembered, known)
    return known[key]
