"""Plugins that a person names as files, without installing them: ``--plugin FILE`` and ``--recipe-plugins``.

A file is read once: the bytes that were read are compiled, and their SHA-256 is the code in fingerprints and in the lock.
No recipe loads a file by itself.
"""

from __future__ import annotations

import ast
import hashlib
import re
import shlex
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.machinery import ModuleSpec
from importlib.metadata import packages_distributions
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Final

from nfilter.api.errors import PluginError, did_you_mean, short
from nfilter.api.file_errors import file_advice

FOLDER: Final = "plugins"
"""The folder beside a recipe that ``--recipe-plugins`` loads."""
FOLDER_FLAG: Final = "--recipe-plugins"
_MODULE: Final = "nfilter_file_"
_MOST_BESIDE, _MOST_BYTES = 100, 2**20  # files beside a recipe that are searched for a name


@dataclass(frozen=True)
class GivenFile:
    """One file with a plugin.

    ``path`` is the path as it was named, ``place`` the absolute one without links, ``text`` the content, and ``flag`` what
    loads the file on the command line.
    """

    path: Path
    place: Path
    text: bytes
    flag: str

    @property
    def name(self) -> str:
        """The name of the plugin: that of the file, as an identifier."""
        return re.sub(r"\W", "_", self.place.stem, flags=re.ASCII)

    @property
    def shown(self) -> str:
        """The path as people see it, with the place that a link leads to."""
        link = f" -> {self.place}" if self.path.is_symlink() else ""
        return short(f"{self.path}{link}", 500)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the content, as hexadecimal digits."""
        return hashlib.sha256(self.text).hexdigest()

    @property
    def value(self) -> str:
        """The name of its module.

        It does not depend on the folder, because stored results of a plugin's own capabilities are found by it. Where
        another file, or another content of this one, has the name in this process already, a digest is added.
        """
        name = f"{_MODULE}{self.name}"
        taken = sys.modules.get(name)
        if taken is None or self._is_loaded_as(taken):
            return name
        own = hashlib.sha256(f"{self.place}\n{self.sha256}".encode()).hexdigest()
        return f"{name}_{own[:16]}"

    def load(self) -> ModuleType:
        """Return the module; a file whose content is loaded in this process already is not run again.

        Raises:
            PluginError: if the file imports one beside it.
        """
        self._refuse_imports_beside()
        name = self.value
        known = sys.modules.get(name)
        if known is not None:
            return known
        spec = ModuleSpec(name, None, origin=str(self.place), loader_state=self)
        spec.has_location = True
        module = module_from_spec(spec)
        sys.modules[name] = module
        try:
            exec(compile(self.text, str(self.place), "exec", dont_inherit=True), vars(module))  # noqa: S102 - a person named the file
        except BaseException:
            del sys.modules[name]
            raise
        return module

    def forget(self) -> None:
        """Remove the module, which cannot be used, so that a repaired file has its name."""
        sys.modules.pop(self.value, None)

    def _is_loaded_as(self, module: ModuleType) -> bool:
        other = given_file_of(module)
        return other is not None and (other.place, other.text) == (self.place, self.text)

    def _refuse_imports_beside(self) -> None:
        """Refuse the import of a file in the same folder: its changes would not count as changes of the plugin."""
        try:
            tree = ast.parse(self.text)
        except (SyntaxError, ValueError):
            return  # reported with its line when it is compiled
        for node in ast.walk(tree):
            for name in _imported(node):
                beside = self.place.parent / name
                if not (beside.with_suffix(".py").is_file() or (beside / "__init__.py").is_file()):
                    continue
                is_relative = isinstance(node, ast.ImportFrom) and node.level > 0
                if not is_relative and _is_installed(name):
                    continue
                raise PluginError(
                    f"line {getattr(node, 'lineno', 1)} imports {name}, which lies beside it, and a plugin file is loaded alone; "
                    "write it into the file, or make a distribution of both: nfilter new-plugin NAME --kind stage"
                )


def given_file_of(module: ModuleType) -> GivenFile | None:
    """Return the file that ``module`` was loaded from by its name; None for every other module."""
    file = getattr(getattr(module, "__spec__", None), "loader_state", None)
    return file if isinstance(file, GivenFile) else None


def given_files(paths: Iterable[str | Path]) -> tuple[GivenFile, ...]:
    """Read the files of ``--plugin FILE``, each once.

    Raises:
        PluginError: for what is no Python file.
    """
    read = (_given(Path(path), f"--plugin {shlex.quote(str(path))}") for path in paths)
    return tuple({file.place: file for file in read}.values())


def _given(path: Path, flag: str) -> GivenFile:
    try:
        _check_file(path, flag)
    except PermissionError as error:
        raise _unreadable(path, error, flag) from error
    return _read(path, flag)


def _check_file(path: Path, flag: str) -> None:
    if path.is_dir():
        raise PluginError(
            f"{flag}: a folder; name a .py file, or install the distribution: pip install -e {shlex.quote(str(path))}"
        )
    if path.suffix != ".py":
        raise PluginError(f"{flag}: a plugin is a Python file; name one that ends in .py")
    if not path.is_file():
        parent = path.parent
        others = [each.name for each in parent.glob("*.py")] if parent.is_dir() else []
        raise PluginError(f"{flag}: there is no such file{did_you_mean(path.name, others)}")


def _read(path: Path, flag: str) -> GivenFile:
    try:
        place = path.resolve(strict=True)
        if not place.is_file():
            # A pipe would be waited for.
            raise PluginError(f"{short(str(path), 500)}: not a regular file; see {flag}")
        return GivenFile(path, place, place.read_bytes(), flag)
    except OSError as error:
        raise _unreadable(path, error, flag) from error


def _unreadable(path: Path, error: OSError, flag: str) -> PluginError:
    what = file_advice(path, error) if isinstance(error, PermissionError) else f"see {flag}"
    return PluginError(
        f"{short(str(path), 500)}: cannot be read ({error.strerror or error}); {what}"
    )


def files_beside(recipe: Path) -> Iterator[GivenFile]:
    """Read the Python files in the folder of a recipe that one might name with ``--plugin``, the first of them by name.

    Hidden, large and unreadable files are left out.
    """
    paths = sorted(path for path in recipe.parent.glob("*.py") if not path.name.startswith("."))
    for path in paths[:_MOST_BESIDE]:
        with suppress(OSError, PluginError):
            if path.stat().st_size <= _MOST_BYTES:
                yield _read(path, f"--plugin {shlex.quote(str(path))}")


def recipe_folder(recipe: Path) -> Path:
    """Return the folder beside a recipe file that its plugins may lie in."""
    return recipe.parent / FOLDER


def recipe_files(recipe: Path) -> tuple[GivenFile, ...]:
    """Read the files of the folder ``plugins`` beside the recipe, in the order of their names. Folders in it are not read.

    Raises:
        PluginError: if there is no such folder or no file in it, and for a link out of the folder.
    """
    folder = recipe_folder(recipe)
    if folder.is_symlink():
        raise PluginError(
            f"{FOLDER_FLAG}: {folder} is a link to {folder.resolve()}; nothing is loaded through a link: type --plugin FILE for "
            "each file"
        )
    if not folder.is_dir():
        raise PluginError(
            f"{FOLDER_FLAG}: there is no folder {folder}; leave the flag out, or type --plugin FILE"
        )
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    packages = [path for path in paths if (path / "__init__.py").is_file()]
    if packages:
        raise PluginError(
            f"{FOLDER_FLAG}: {short(str(packages[0]), 500)} is a package, and only files are loaded; write it as one file, or "
            "install it"
        )
    found = {
        file.place: file
        for path in paths
        if path.suffix == ".py"
        for file in (_inside(path, folder.resolve()),)
    }
    if not found:
        raise PluginError(
            f"{FOLDER_FLAG}: {folder} has no .py file; leave the flag out, or type --plugin FILE"
        )
    return tuple(found.values())


def _inside(path: Path, folder: Path) -> GivenFile:
    file = _read(path, FOLDER_FLAG)
    if file.place.parent != folder:
        raise PluginError(
            f"{FOLDER_FLAG}: {short(str(path), 500)} is a link out of the folder; to load its target, type "
            f"--plugin {shlex.quote(str(file.place))}"
        )
    return file


def place_in(file: GivenFile, error: BaseException) -> str:
    """Return ``PATH:LINE``, the innermost line of the file in the traceback of ``error``; the path alone without one."""
    if isinstance(error, SyntaxError) and error.filename == str(file.place):
        return f"{file.shown}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(file.place)]
    return f"{file.shown}:{lines[-1]}" if lines else file.shown


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        if node.module:
            return [node.module.partition(".")[0]]
        return [alias.name for alias in node.names]
    return []


def _is_installed(name: str) -> bool:
    """Whether a module of that name comes with Python or a distribution; the folder of a file may have an equal name."""
    return name == "nfilter" or name in sys.stdlib_module_names or name in packages_distributions()
