"""`nfilter plugins`: everything that plugins bring, each with its origin and the time that its plugin took to load."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nfilter.api.errors import PluginError, short
from nfilter.api.hookspecs import REGISTRATIONS
from nfilter.recipe.extends import SHIPPED
from nfilter.recipe.prompts import shipped_directory
from nfilter.registry.catalogue import summary
from nfilter.registry.loading import Plugins
from nfilter.registry.plugin_imports import Candidate, Imported, distribution_of

if TYPE_CHECKING:
    from rich.console import Console

KINDS: Final = (*REGISTRATIONS.values(), "model", "prompt", "recipe", "command", "hook")
"""What is listed, in this order."""
_TEMPLATE: Final = ".jinja"
_RECIPE: Final = ".yaml"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the listing.

    ``file`` is the path of a plugin that was loaded as a file. ``seconds`` is the time of the plugin's import and its
    registration hooks; a package that an earlier plugin imported takes none. None: nothing is imported for it.
    """

    kind: str
    name: str
    plugin: str
    distribution: str
    version: str
    file: str | None
    seconds: float | None
    summary: str

    @property
    def origin(self) -> str:
        """Distribution and version, or the path of a file."""
        return f"{self.distribution} {self.version}".rstrip()

    def matches(self, kind: str | None, text: str) -> bool:
        """Whether it is of ``kind`` and contains ``text``, in any case."""
        if kind is not None and self.kind != kind:
            return False
        parts = (self.name, self.origin, self.plugin, self.summary)
        return any(text.casefold() in part.casefold() for part in parts)


@dataclass(frozen=True, slots=True)
class Listing:
    """What is installed, filtered, and what is wrong with plugins, which no filter hides."""

    entries: tuple[Entry, ...]
    clashes: tuple[str, ...]
    failed: tuple[tuple[str, str, str], ...]
    blocked: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON values: the registered classes under ``plugins``, the other kinds under their plural."""
        lists: dict[str, list[dict[str, Any]]] = {"plugins": []}
        lists |= {f"{kind}s": [] for kind in KINDS if kind not in REGISTRATIONS.values()}
        for entry in self.entries:
            key = "plugins" if entry.kind in REGISTRATIONS.values() else f"{entry.kind}s"
            lists[key].append(asdict(entry))
        failed = [
            {"plugin": plugin, "distribution": distribution, "error": error}
            for plugin, distribution, error in self.failed
        ]
        return {
            **lists,
            "clashes": list(self.clashes),
            "failed": failed,
            "blocked": list(self.blocked),
        }


def listing(
    plugins: Plugins,
    commands: Mapping[str, Sequence[EntryPoint]],
    *,
    kind: str | None = None,
    text: str = "",
) -> Listing:
    """Import all plugins and list what they bring.

    Args:
        plugins: The plugins.
        commands: The entry points of plugins' commands by name.
        kind: One of ``KINDS``; None lists all.
        text: What name, origin or summary contain, in any case.

    Raises:
        PluginError: if there is no such kind.
    """
    if kind is not None and kind not in KINDS:
        raise PluginError(
            f"--kind {short(kind)}: there is no such kind; type --kind with one of: {', '.join(KINDS)}"
        )
    broken: list[tuple[str, str, str]] = []
    every = [*_entries_of_core(), *_entries_of_plugins(plugins), *_of_commands(commands, broken)]
    order = {each: number for number, each in enumerate(KINDS)}
    every.sort(key=lambda entry: (order[entry.kind], entry.name, entry.origin))
    failed = [(item.plugin, item.distribution, item.error) for item in plugins.failed]
    return Listing(
        tuple(entry for entry in every if entry.matches(kind, text)),
        plugins.clashes,
        (*failed, *broken),
        plugins.blocked,
    )


def show_all(found: Listing, console: Console, *, as_json: bool) -> None:
    """Print a listing as a table, or as JSON."""
    if as_json:
        console.file.write(json.dumps(found.to_json()) + "\n")
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for title in ("kind", "name", "from", "load"):
        table.add_column(title, no_wrap=True)
    table.add_column("what it does", overflow="fold")
    for entry in found.entries:
        load = "" if entry.seconds is None else f"{entry.seconds:.2f} s"
        cells = (entry.kind, entry.name, entry.origin, load, entry.summary)
        table.add_row(*map(Text, cells))
    console.print(table)
    if not found.entries:
        console.print("nothing matches; `nfilter plugins` lists all", markup=False)
    for clash in found.clashes:
        console.print(f"clash: {clash}", markup=False, soft_wrap=True)
    for plugin, distribution, error in found.failed:
        text = f"failed: {plugin} of {distribution}: {error}"
        console.print(text, markup=False, soft_wrap=True)
    for blocked in found.blocked:
        console.print(f"blocked: {blocked}", markup=False)


def _entries_of_plugins(plugins: Plugins) -> Iterator[Entry]:
    unique = set(map(id, plugins.registered.values()))
    for candidate, done in plugins.loaded:
        for item in done.items:
            if id(item) in unique:
                yield _entry(candidate, done, item.kind, item.name, summary(item.cls))
        for name, path in done.models:
            yield _entry(candidate, done, "model", name, str(path))
        for folder in done.prompts:
            for name, path in _templates(folder):
                yield _entry(candidate, done, "prompt", name, str(path))
        for folder in done.recipes:
            for path in sorted(folder.glob(f"*{_RECIPE}")):
                yield _entry(candidate, done, "recipe", path.stem, _first_comment(path))
        for name in done.hooks:
            yield _entry(candidate, done, "hook", name, f"of the plugin {candidate.name}")


def _entry(candidate: Candidate, done: Imported, kind: str, name: str, what: str) -> Entry:
    distribution, version = distribution_of(candidate.point)
    file = None if candidate.file is None else str(candidate.file.place)
    return Entry(kind, name, candidate.name, distribution, version, file, done.seconds, what)


def _entries_of_core() -> Iterator[Entry]:
    """The prompts and recipes that ship with nfilter itself."""
    from nfilter import __version__

    for name, path in _templates(shipped_directory()):
        yield Entry("prompt", name, "nfilter", "nfilter", __version__, None, None, str(path))
    for path in sorted(SHIPPED.glob(f"*{_RECIPE}")):
        what = _first_comment(path)
        yield Entry("recipe", path.stem, "nfilter", "nfilter", __version__, None, None, what)


def _of_commands(
    commands: Mapping[str, Sequence[EntryPoint]], broken: list[tuple[str, str, str]]
) -> Iterator[Entry]:
    for name, points in commands.items():
        for point in points:
            distribution, version = distribution_of(point)
            start = time.perf_counter()
            try:
                found = point.load()
            except Exception as error:  # noqa: BLE001 - a broken command must not hide the others
                broken.append((name, distribution, f"{type(error).__name__}: {error}"))
                continue
            seconds = time.perf_counter() - start
            what = _first_sentence(getattr(found, "help", None) or "")
            yield Entry("command", name, point.value, distribution, version, None, seconds, what)


def _templates(folder: Path) -> Iterable[tuple[str, Path]]:
    for path in sorted(folder.rglob(f"*{_TEMPLATE}")):
        yield path.relative_to(folder).as_posix().removesuffix(_TEMPLATE), path


def _first_comment(path: Path) -> str:
    """The first sentence of the comment at the beginning of a recipe."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        return f"cannot be read: {error}"
    found = []
    for line in lines:
        if not line.startswith("#"):
            break
        found.append(line.lstrip("# "))
    return _first_sentence(" ".join(found))


def _first_sentence(text: str) -> str:
    return " ".join(text.split()).partition(". ")[0]
