"""Plugin files that a run was made with: their record in recipe.lock.yaml, and what to type where one is not loaded."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nfilter.api.errors import PluginError, RecipeError, short
from nfilter.recipe.yaml_lines import read
from nfilter.registry.given_files import (
    FOLDER_FLAG,
    GivenFile,
    files_beside,
    recipe_files,
    recipe_folder,
)
from nfilter.registry.plugin_files import PluginFiles

PLUGIN_FILES: Final = "plugin_files"
"""The key of the record under ``lock``."""
_LOCK: Final = "recipe.lock.yaml"
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class LockedFile:
    """A plugin file as a lock records it: its absolute path, the SHA-256 of its content, and whether its flag names no path."""

    path: Path
    sha256: str
    from_folder: bool

    @property
    def flag(self) -> str:
        """What loads it again."""
        return FOLDER_FLAG if self.from_folder else f"--plugin {shlex.quote(str(self.path))}"

    def remedy(self) -> str:
        """Return what to type, given what is at the path now."""
        shown = short(str(self.path), 500)
        try:
            now = hashlib.sha256(self.path.read_bytes()).hexdigest()
        except OSError:
            return (
                f"the plugin file {shown}, which cannot be read any more; put it back and type {short(self.flag, 500)}, or "
                f"type --plugin FILE for a copy (its SHA-256 was {self.sha256})"
            )
        changed = "" if now == self.sha256 else "; it was changed since, so its stages run again"
        return (
            f"the plugin file {shown}, which is not loaded; type {short(self.flag, 500)}{changed}"
        )


def record(files: Sequence[GivenFile]) -> list[dict[str, str]]:
    """Return the record of ``files`` for a lock."""
    return [
        {
            "path": str(file.place),
            "sha256": file.sha256,
            "flag": FOLDER_FLAG if file.flag == FOLDER_FLAG else "--plugin",
        }
        for file in files
    ]


def locked_files(lock: Any) -> list[LockedFile]:
    """Return the files that the section ``lock`` of a recipe records; entries that are no record are left out."""
    entries = lock.get(PLUGIN_FILES) if isinstance(lock, Mapping) else None
    found = []
    for entry in entries if isinstance(entries, list) else []:
        values = entry if isinstance(entry, Mapping) else {}
        path, sha256 = values.get("path"), values.get("sha256")
        if isinstance(path, str) and isinstance(sha256, str) and _SHA256.fullmatch(sha256):
            found.append(LockedFile(Path(path), sha256, values.get("flag") == FOLDER_FLAG))
    return found


def not_loaded(locks: Iterable[Path], files: Sequence[GivenFile]) -> list[str]:
    """Return a sentence for each file that one of the lock files ``locks`` records and that is not among ``files``.

    A file with the same content at another place counts as loaded.
    """
    places, digests = {file.place for file in files}, {file.sha256 for file in files}
    found: dict[Path, str] = {}
    for lock in locks:
        for file in locked_files(_sections(lock).get("lock")):
            if file.path not in places and file.sha256 not in digests:
                found.setdefault(
                    file.path, f"{short(str(lock), 500)} was made with {file.remedy()}"
                )
    return list(found.values())


def locks_of(run: Path) -> list[Path]:
    """Return the lock files of a run directory, or of a group of seeds."""
    return [run / _LOCK, *sorted(run.glob(f"seed-*/{_LOCK}"))]


@dataclass(frozen=True, slots=True)
class FileHints:
    """Says where an unknown name may come from.

    ``recipe`` is the recipe's file, ``run`` the directory of an earlier run, where one is known; ``files`` are loaded.
    """

    recipe: Path | None = None
    run: Path | None = None
    files: tuple[GivenFile, ...] = ()

    def __call__(self, name: str) -> Iterator[str]:
        """Yield a sentence for each file that may have the name."""
        run = self.run or (_default_run(self.recipe) if self.recipe is not None else None)
        locks = [self.recipe] if self.recipe is not None else []
        if run is not None:
            locks += locks_of(run)
        yield from not_loaded(locks, self.files)
        if self.recipe is None:
            return
        named = {file.place for file in self.files}
        named |= {file.path for lock in locks for file in locked_files(_sections(lock).get("lock"))}
        for file in self._beside(self.recipe):
            if file.place not in named and PluginFiles(file.text).may_name(name):
                yield f"{file.shown} has this name and is not loaded; type {short(file.flag, 500)}"

    def _beside(self, recipe: Path) -> Iterator[GivenFile]:
        """Yield the Python files in the folder of the recipe and in its folder of plugins. They are read and not run."""
        yield from files_beside(recipe)
        if recipe_folder(recipe).is_dir():
            with suppress(PluginError):
                yield from recipe_files(recipe)


def _default_run(recipe: Path) -> Path | None:
    name = _sections(recipe).get("name") or recipe.name.split(".")[0]
    if not isinstance(name, str) or not name.strip(" .") or any(c in name for c in "/\\\0"):
        return None
    return Path("runs") / name


def _sections(file: Path) -> Mapping[str, Any]:
    try:
        value = read(file).value
    except RecipeError:
        return {}
    return value if isinstance(value, dict) else {}
