"""Inspect the source files of a plugin without importing it: the names it may register and its top-level imports.

A plugin without readable source (compiled, zipped, generated) is assumed to match every query.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

_IMPORTS = re.compile(rb"^[ \t]*(?:from|import)[ \t]+(\w+)", re.MULTILINE)
_COMPILED = frozenset({".so", ".pyd", ".pyx"})


@dataclass(frozen=True)
class PluginFiles:
    """The source text of a plugin's package and the paths of its templates; ``text`` is None if it is not readable."""

    text: bytes | None
    templates: frozenset[str] = frozenset()

    def mentions(self, word: str) -> bool:
        """Whether ``word``, e.g. the name of a hook, occurs in the source."""
        return self.text is None or word.encode() in self.text

    def may_name(self, name: str) -> bool:
        """Whether the source contains ``name`` as a string literal."""
        if self.text is None:
            return True
        return any(f"{mark}{name}{mark}".encode() in self.text for mark in "\"'")

    def may_hold(self, template: str) -> bool:
        """Whether the package contains ``template`` (``folder/name``) as a ``.jinja`` file."""
        if self.text is None:
            return True
        path = f"/{template}.jinja"
        return any(f"/{held}".endswith(path) for held in self.templates)


def files_of(module: str) -> PluginFiles:
    """Read the top-level package, or the single file, that contains ``module``, without importing it."""
    try:
        spec = importlib.util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError, AttributeError):
        return PluginFiles(None)
    if spec is None:
        return PluginFiles(None)
    try:
        if spec.submodule_search_locations:
            return _package([Path(folder) for folder in spec.submodule_search_locations])
        if spec.origin and spec.origin.endswith(".py"):
            return PluginFiles(b"\n".join(_single(Path(spec.origin))))
    except OSError:
        return PluginFiles(None)
    return PluginFiles(None)


def _package(folders: Iterable[Path]) -> PluginFiles:
    texts: list[bytes] = []
    templates: set[str] = set()
    for folder in folders:
        for path in folder.rglob("*"):
            if path.suffix == ".py":
                texts.append(path.read_bytes())
            elif path.suffix == ".jinja":
                templates.add(path.relative_to(folder).as_posix())
            elif path.suffix in _COMPILED or (
                path.suffix == ".pyc" and path.parent.name != "__pycache__"
            ):
                return PluginFiles(None)
    return PluginFiles(b"\n".join(texts), frozenset(templates)) if texts else PluginFiles(None)


def _single(file: Path) -> Iterator[bytes]:
    """Yield the text of a single-file module and of the files in its folder that it imports."""
    pending, seen = [file], {file}
    while pending:
        text = pending.pop().read_bytes()
        yield text
        for name in _IMPORTS.findall(text):
            beside = file.with_name(f"{name.decode()}.py")
            if beside not in seen and beside.is_file():
                seen.add(beside)
                pending.append(beside)


def imported_at_top(modules: Mapping[str, ModuleType], before: Iterable[str]) -> list[str]:
    """The third-party packages that ``modules`` (by name) import at top level, e.g. ``torch (my_plugin/stages.py:3)``.

    ``before`` are the names of modules that were imported earlier. The standard library is excluded.
    """
    old = {name.partition(".")[0] for name in before}
    own = {name.partition(".")[0] for name in modules}
    found: dict[str, str] = {}
    for module in modules.values():
        file = getattr(module, "__file__", None)
        if not file or not file.endswith(".py"):
            continue
        path = Path(file)
        for name, line in _top_level(path):
            if name not in old | own | sys.stdlib_module_names and name in sys.modules:
                found.setdefault(name, f"{name} ({path.parent.name}/{path.name}:{line})")
    return list(found.values())


def _top_level(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the packages that a file imports at top level, each with its line number."""
    try:
        left: list[ast.stmt] = list(ast.parse(path.read_bytes()).body)
    except (OSError, SyntaxError, ValueError):
        return
    while left:
        node = left.pop(0)
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0], node.lineno
        elif isinstance(node, ast.If | ast.Try | ast.With):
            left += [inner for inner in ast.iter_child_nodes(node) if isinstance(inner, ast.stmt)]
