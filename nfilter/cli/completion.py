"""Values that a shell completes: export formats, templates, kinds and names of plugins, run directories."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nfilter.api.errors import NfilterError

if TYPE_CHECKING:
    import click
    from click.shell_completion import CompletionItem

    from nfilter.registry.loading import Plugins

_RUN_FILES: Final = ("manifest.json", "recipe.lock.yaml")
_MOST: Final = 1000
"""Folders that one key press looks into, at most."""


def formats(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of an export format."""
    return _items((item.name for item in _plugins().of_kind("exporter")), incomplete)


def recipe_templates(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the name of a recipe that ships."""
    from nfilter.recipe.extends import templates

    return _items(templates(_plugins()), incomplete)


def kinds(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a kind of component."""
    from nfilter.cli.installed import KINDS

    return _items(KINDS, incomplete)


def components(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the name of a stage, backend, trainer, source, exporter, metric or loss."""
    names: list[str] = []
    with suppress(NfilterError):
        names = [name for _, name in _plugins().registered]
    return _items(names, incomplete)


def runs(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the path of a run directory, folder by folder: runs, and folders that have a run in them."""
    parent = Path(incomplete if incomplete.endswith("/") else Path(incomplete).parent)
    found: list[str] = []
    with suppress(OSError):
        for count, path in enumerate(parent.iterdir()):
            if count >= _MOST:
                break
            if _is_run(path):
                found.append(str(path))
            elif path.is_dir() and _has_runs(path):
                found.append(f"{path}/")
    # "./runs" is shown as it was begun, not as Path writes it.
    prefix = "./" if incomplete.startswith("./") else ""
    return _items((f"{prefix}{name}" for name in found), incomplete)


def _is_run(path: Path) -> bool:
    return any((path / name).is_file() for name in _RUN_FILES)


def _has_runs(folder: Path) -> bool:
    with suppress(OSError):
        children = (path for _, path in zip(range(_MOST), folder.iterdir(), strict=False))
        return any(_is_run(path) for path in children)
    return False


def _items(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    """Return the names that begin as typed, sorted, without those that a shell cannot print."""
    from click.shell_completion import CompletionItem

    known = {name for name in names if name.startswith(incomplete) and name.isprintable()}
    return [CompletionItem(name) for name in sorted(known)]


def _plugins() -> Plugins:
    from nfilter.registry.loading import load

    return load()
