"""Versions of the packages that affect results."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from nfilter import __version__

PACKAGES = (
    "nfilter", "torch", "transformers", "peft", "faiss-cpu", "sentence-transformers", "numpy", "litellm",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Return the versions of Python and the packages that affect results; packages that are not installed are left out."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return {**installed, "nfilter": __version__}
