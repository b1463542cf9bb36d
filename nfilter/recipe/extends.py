"""``extends``: a recipe that changes another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nfilter.api.errors import RecipeError, did_you_mean, short
from nfilter.recipe.yaml_lines import Where, YamlDocument, read
from nfilter.registry.loading import Plugins

EXTENDS = "extends"
SHIPPED = Path(__file__).resolve().parents[1] / "recipes"
_OWN = ("name", "lock", EXTENDS)
"""Sections that are not inherited."""


def templates(plugins: Plugins) -> dict[str, Path]:
    """Return the recipes that ship, by name: nfilter's and those of plugins. Equal names are prefixed by their package."""
    homes: dict[str, list[Path]] = {}
    for directory in dict.fromkeys((*plugins.recipe_directories, SHIPPED)):
        for path in sorted(directory.glob("*.yaml")):
            homes.setdefault(path.stem, []).append(path)
    return {
        name if len(paths) == 1 else f"{path.parent.parent.name}/{name}": path
        for name, paths in homes.items()
        for path in paths
    }


def extended(document: YamlDocument, plugins: Plugins, seen: tuple[Path, ...] = ()) -> YamlDocument:
    """Return a recipe with the sections of the one that it extends.

    Mappings are merged; everything else is replaced, and so is a mapping with another ``use``. ``name`` is not inherited.

    Raises:
        RecipeError: with file and line, if ``extends`` does not name a recipe, or a recipe extends itself.
    """
    if not isinstance(document.value, dict) or EXTENDS not in document.value:
        return document
    file = _file(document, plugins)
    seen = (*seen, document.file.resolve())
    if file.resolve() in seen:
        names = " -> ".join(path.name for path in (*seen, file))
        raise RecipeError(
            document.fault(
                (EXTENDS,), f"a recipe cannot extend itself ({names}); remove one `extends`"
            )
        )
    base = extended(read(file), plugins, seen)
    if not isinstance(base.value, dict):
        return base
    made = YamlDocument(document.file, None)
    for path, line in base.lines.items():
        if path[:1] not in {(name,) for name in _OWN}:
            made.lines[path] = line
            made.origins[path] = base.origins.get(path, base.file)
    inherited = {key: value for key, value in base.value.items() if key not in _OWN}
    own = {key: value for key, value in document.value.items() if key != EXTENDS}
    made.value = _merged(made, (), inherited, own)
    for path, line in document.lines.items():
        if path[:1] != (EXTENDS,):
            made.lines[path] = line
            made.origins.pop(path, None)
    return made


def _file(document: YamlDocument, plugins: Plugins) -> Path:
    name = document.value[EXTENDS]
    if not isinstance(name, str) or not name:
        raise RecipeError(
            document.fault(
                (EXTENDS,), f"the name of a shipped recipe, or a path, not {short(repr(name))}"
            )
        )
    known = templates(plugins)
    if name in known:
        return known[name]
    path = document.file.resolve().parent / name
    if path.is_file():
        return path
    near = did_you_mean(name, known)
    raise RecipeError(
        document.fault(
            (EXTENDS,),
            f"no recipe {short(repr(name))} ships, and {short(str(path), 500)} is no file{near}",
        )
    )


def _merged(made: YamlDocument, where: Where, base: Any, own: Any) -> Any:
    """Return ``own`` merged into ``base``; the lines of replaced values are removed from ``made``."""
    mappings = isinstance(base, dict) and isinstance(own, dict)
    if not mappings or own.get("use", base.get("use")) != base.get("use"):
        for path in [path for path in made.lines if path[: len(where)] == where]:
            del made.lines[path], made.origins[path]
        return own
    merged = dict(base)
    for key, value in own.items():
        merged[key] = _merged(made, (*where, key), base[key], value) if key in base else value
    return merged
