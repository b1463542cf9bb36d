"""By which code a result was made: one SHA-256 of a package's files."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

_LARGEST: Final = 4 * 2**20
"""Bytes of a file up to which its content counts; of a larger one, weights as a rule, the name and the size do."""
# What shows results, and makes none.
_SHOWS: Final = frozenset({
    "report", "testing", "recipes", "cli.py", "__main__.py", "progress.py", "registry/catalogue.py", "recipe/init.py",
    "recipe/check.py",
})  # fmt: skip


def code_of(cls: type) -> str:
    """SHA-256 over the files of the package that ``cls`` is defined in; of a module without a package, of its file.

    The package is the outermost one that has code of its own. It is read once a process. A class that was made without a
    file has the digest of nothing.
    """
    module = sys.modules.get(getattr(cls, "__module__", ""))
    file = getattr(module, "__file__", None)
    if file is None:
        return _digest(())
    root = Path(file)
    names = str(getattr(module, "__name__", "")).split(".")
    if getattr(module, "__path__", None) is None:
        names = names[:-1]
    for depth in range(1, len(names) + 1):
        package = getattr(sys.modules.get(".".join(names[:depth])), "__file__", None)
        if package is not None:
            root = Path(package).parent
            break
    return _tree(root)


@cache
def core_code() -> str:
    """SHA-256 over nfilter's own files, without those that only show what there is."""
    root = Path(__file__).parents[1]
    named = ((path.relative_to(root), path) for path in _files(root))
    return _digest((name.as_posix(), path) for name, path in named if not _shows(name))


def _shows(name: Path) -> bool:
    return any(part.as_posix() in _SHOWS for part in (name, *name.parents))


@cache
def _tree(root: Path) -> str:
    if root.is_file():
        return _digest([(root.name, root)])
    return _digest((path.relative_to(root).as_posix(), path) for path in _files(root))


def _files(root: Path) -> list[Path]:
    found = (path for path in root.rglob("*") if path.is_file())
    return sorted(
        path
        for path in found
        if path.suffix != ".pyc"
        and not any(
            part.startswith(".") or part == "__pycache__" for part in path.relative_to(root).parts
        )
    )


def _digest(files: Iterable[tuple[str, Path]]) -> str:
    hasher = hashlib.sha256()
    for name, path in files:
        size = path.stat().st_size
        hasher.update(f"{len(name)} {name} {size}\n".encode())
        if size <= _LARGEST:
            hasher.update(path.read_bytes())
    return hasher.hexdigest()
