"""The fingerprint of a model: one SHA-256 of everything that its answers depend on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from nfilter import JSON
from nfilter_hf.cached_values import recall, remember

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
    """Return the files that determine a checkpoint's answers, sorted: those of a folder, or its single file."""
    if place.is_file():
        return [place]
    folder = place
    files = {path for pattern in _PATTERNS for path in folder.glob(pattern) if path.is_file()}
    return sorted(files)


def fingerprint(
    place: Path | None, settings: Mapping[str, JSON], digests: Path | None = None
) -> str:
    """Return the SHA-256 of the checkpoint at ``place``, None if there is none to read, and of ``settings``.

    ``digests`` is a file that caches the digests of large files by path, size and modification time.
    """
    total = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in model_files(place) if place is not None else ():
        # A single-file checkpoint may have any name.
        name = path.name if path != place else path.suffix
        size = path.stat().st_size
        total.update(f"{name}\0{size}\0{digest_of(path, digests)}\n".encode())
    return total.hexdigest()


def cache_folder() -> Path:
    """Return nfilter's folder in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "nfilter"


def default_digests() -> Path:
    """Return the file that caches digests of large files."""
    return cache_folder() / "digests.json"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(path: Path, cache_file: Path | None = None) -> str:
    """Return the SHA-256 of a file; for a large file from the cache ``cache_file``, if size and modification time match."""
    stat = path.stat()
    if cache_file is None or stat.st_size < _LARGE:
        return file_sha256(path)
    key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    known = {name: str(digest) for name, digest in recall(cache_file).items()}
    if key not in known:
        known[key] = file_sha256(path)
        remember(cache_file, known)
    return known[key]
