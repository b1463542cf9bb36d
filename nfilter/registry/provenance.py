"""The code that made a result, as one SHA-256 over the files of a package."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

from nfilter.registry.given_files import given_file_of

_LARGEST: Final = 4 * 2**20
"""Bytes. The content of files up to this size is hashed; of larger ones, usually weights, only name and size."""
# Code that displays results and does not compute them.
_DISPLAYS: Final = frozenset({
    "report", "testing", "recipes", "cli", "__main__.py", "progress.py", "registry/catalogue.py", "recipe/init.py", "recipe/named_data.py",
    "recipe/check.py", "recipe/checking.py", "recipe/check_models.py", "recipe/check_data.py", "recipe/check_training.py",
    "recipe/schema.py", "recipe/reference.py",
})  # fmt: skip


def code_of(cls: type) -> str:
    """SHA-256 over the files of the package that defines ``cls``, or over the module file if there is no package.

    The package is the outermost one with an ``__init__.py``. It is read once per process. A class without a source file
    has the digest of no files. A plugin that was loaded as a file has the SHA-256 of what was loaded.
    """
    module = sys.modules.get(getattr(cls, "__module__", ""))
    given = given_file_of(module) if module is not None else None
    if given is not None:
        return given.sha256
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


def backend_code(backend: object) -> str:
    """Return the digest of the code of a backend and of the backends that it is built on (``built_on``)."""
    own = code_of(type(backend))
    others = [backend_code(each) for each in getattr(backend, "built_on", ())]
    return hashlib.sha256(" ".join([own, *others]).encode()).hexdigest() if others else own


@cache
def core_code() -> str:
    """SHA-256 over nfilter's own files, without those that only display results."""
    root = Path(__file__).parents[1]
    named = ((path.relative_to(root), path) for path in _files(root))
    return _digest((name.as_posix(), path) for name, path in named if not _displays(name))


def _displays(name: Path) -> bool:
    return any(part.as_posix() in _DISPLAYS for part in (name, *name.parents))


@cache
def _tree(root: Path) -> str:
    if root.is_file():
        return _digest([(root.name, root)])
    return _digest((path.relative_to(root).as_posix(), path) for path in _files(root))


def _files(root: Path) -> list[Path]:
    every = (path for path in root.rglob("*") if path.is_file())
    return sorted(
        path
        for path in every
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
