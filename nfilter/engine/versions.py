"""Versions of what a result depends on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from nfilter import __version__

PACKAGES = (
    "nfilter", "torch", "transformers", "peft", "faiss-cpu", "sentence-transformers", "numpy", "litellm",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of what a result depends on; a package that is not installed is left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {**found, "nfilter": __version__}
