"""The catalogue of plugins: entry points in, classes with their provenance out.

A plugin is imported when its contents are needed: the one that names what a recipe uses, all of them for a listing, and all
before a name is called unknown. Built-in methods come through the same entry-point group as a stranger's. A plugin that
fails to import breaks nothing else; it is named whenever something is asked for that nobody has.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pluggy

from nfilter.api import hookspecs
from nfilter.api.errors import (
    ModelError,
    NotInstalled,
    PluginError,
    also_known,
    did_you_mean,
    short,
)
from nfilter.registry.plugin_imports import (
    Candidate,
    Failed,
    Imported,
    Registered,
    distribution_of,
    import_plugin,
    seconds_now,
)

GROUP = "nfilter"
Shipped = tuple[str, str, Path | NotInstalled]
"""A model that a plugin names: its name, the plugin, and where it is."""
COMMAND_GROUP = "nfilter.commands"
BLOCK_VARIABLE = "NFILTER_BLOCK_PLUGINS"
_HOOKS = {kind: hook for hook, kind in hookspecs.REGISTRATIONS.items()}


class Plugins:
    """What is installed. Whatever is asked of it imports the plugins that it takes to answer, and no other."""

    def __init__(
        self,
        points: Iterable[EntryPoint],
        blocked: Iterable[str] = (),
        say: Callable[[str], None] | None = None,
        clock: Callable[[], float] = seconds_now,
    ) -> None:
        """``say`` is told of each plugin whose import is slow, when it is imported; ``clock`` counts seconds."""
        ordered = sorted(points, key=lambda point: (distribution_of(point)[0], point.name))
        shut = {name.strip() for name in blocked}
        self.blocked = tuple(point.name for point in ordered if point.name in shut)
        self._candidates = [
            Candidate(point, number)
            for number, point in enumerate(ordered)
            if point.name not in shut
        ]
        self._imported: dict[Candidate, Imported] = {}
        self._say = say or (lambda _text: None)
        self._clock = clock
        self.manager = pluggy.PluginManager("nfilter")
        self.manager.add_hookspecs(hookspecs)

    # --- what is there -----------------------------------------------------------------------------------------

    @property
    def registered(self) -> Mapping[tuple[str, str], Registered]:
        """All classes by kind and name; a name that two plugins register is nobody's, and among the ``clashes``."""
        self._import_all()
        return self._unique()

    @property
    def failed(self) -> tuple[Failed, ...]:
        """All plugins that cannot be used."""
        self._import_all()
        return self._failed()

    @property
    def clashes(self) -> tuple[str, ...]:
        """All names that more than one plugin registers, in a sentence each."""
        self._import_all()
        twice = [items for items in self._by_name().values() if len(items) > 1]
        homes = [homes for homes in self._models().values() if len(homes) > 1]
        return (*map(_clash, twice), *map(_model_clash, homes))

    @property
    def imported(self) -> tuple[Registered, ...]:
        """The classes of all plugins that have been imported so far."""
        return tuple(item for items in self._by_name().values() for item in items)

    @property
    def imported_plugins(self) -> tuple[str, ...]:
        """The names of the plugins that have been imported so far, in the order of loading."""
        return tuple(
            candidate.name for candidate in self._candidates if candidate in self._imported
        )

    @cached_property
    def models(self) -> Mapping[str, Path]:
        """The models that ship with plugins: a short name to a folder. A name that two plugins give is an error when used."""
        return _Models(self)

    @property
    def prompt_directories(self) -> tuple[Path, ...]:
        """All directories of templates."""
        return self._folders("nfilter_prompts", lambda imported: imported.prompts)

    @property
    def recipe_directories(self) -> tuple[Path, ...]:
        """All directories of recipes."""
        return self._folders("nfilter_recipes", lambda imported: imported.recipes)

    def prompt_directories_with(self, template: str) -> tuple[Path, ...]:
        """The directories in which a template of this name may be; files are looked at before a plugin is imported."""
        likely = [
            each for each in self._mentioning("nfilter_prompts") if each.files.may_hold(template)
        ]
        return tuple(folder for each in likely for folder in self._import(each).prompts)

    def of_kind(self, kind: str) -> list[Registered]:
        """All of one kind, by name; names that clash are left out."""
        for candidate in self._mentioning(_HOOKS[kind]):
            self._import(candidate)
        items = [item for item in self._unique().values() if item.kind == kind]
        return sorted(items, key=lambda item: item.name)

    def find(self, kind: str, name: str) -> Registered | None:
        """What is registered under that name; None where nothing is.

        Raises:
            PluginError: when two plugins register it; both distributions are named.
        """
        for candidate in self._mentioning(_HOOKS[kind]):
            if candidate.files.may_name(name):
                self._import(candidate)
        items = self._by_name().get((kind, name), [])
        if not items:
            # A name may be put together from parts, which no file shows.
            self._import_all()
            items = self._by_name().get((kind, name), [])
        if len(items) > 1:
            raise PluginError(_clash(items))
        return items[0] if items else None

    def get(self, kind: str, name: str) -> Registered:
        """What is registered under that name.

        Raises:
            PluginError: names the nearest, and every plugin that failed to load or is blocked; or the clash.
        """
        item = self.find(kind, name)
        if item is None:
            raise PluginError(self.unknown(kind, name))
        return item

    def unknown(self, kind: str, name: str) -> str:
        """The sentence for a name that nobody registered."""
        text = f"unknown {kind} {short(repr(name))}"
        text += self._called_here(kind, name) or did_you_mean(
            name, [item.name for item in self.of_kind(kind)]
        )
        return text + self.out_of_use()

    def out_of_use(self) -> str:
        """A line for each plugin that failed to load or is blocked, to stand after what is said of a missing name."""
        text = ""
        for failed in self.failed:
            text += f"\n  plugin {failed.plugin!r} of {failed.distribution} did not load: {failed.error}"
        for blocked in self.blocked:
            text += f"\n  plugin {blocked!r} is blocked by {BLOCK_VARIABLE}"
        return text

    def _called_here(self, kind: str, name: str) -> str:
        """What to write for a name that other tools use."""
        for item in self.of_kind(kind):
            known = also_known(getattr(item.cls, "also_known", {}), name)
            if known is not None:
                return f"; write {known}"
        return ""

    def announce(self, hook: str, event: object, complain: Callable[[str], None]) -> None:
        """Tell every listener of an event. What one of them raises is passed to ``complain``, never on."""
        listening = {candidate.key: candidate for candidate in self._mentioning(hook)}
        for candidate in listening.values():
            self._import(candidate)
        heard = {
            each.plugin_name: each for each in getattr(self.manager.hook, hook).get_hookimpls()
        }
        for key, candidate in listening.items():
            if key not in heard:
                continue
            implementation = heard[key]
            try:
                implementation.function(*[event for _ in implementation.argnames])
            except Exception as error:  # noqa: BLE001 - a listener must not end a run
                complain(f"plugin {candidate.name!r} failed in {hook}: {error!r}")

    # --- imports -----------------------------------------------------------------------------------------------

    def _import(self, candidate: Candidate) -> Imported:
        if candidate not in self._imported:
            done = import_plugin(candidate, self.manager, self._clock)
            self._imported[candidate] = done
            if done.slow is not None:
                self._say(done.slow)
        return self._imported[candidate]

    def _import_all(self) -> None:
        for candidate in self._candidates:
            self._import(candidate)

    def _mentioning(self, hook: str) -> list[Candidate]:
        return [each for each in self._candidates if each.files.mentions(hook)]

    def _done(self) -> Iterator[tuple[Candidate, Imported]]:
        """What has been imported, in the order of loading."""
        return (
            (candidate, self._imported[candidate])
            for candidate in self._candidates
            if candidate in self._imported
        )

    def _failed(self) -> tuple[Failed, ...]:
        return tuple(done.failed for _, done in self._done() if done.failed is not None)

    def _by_name(self) -> dict[tuple[str, str], list[Registered]]:
        found: dict[tuple[str, str], list[Registered]] = {}
        for _, done in self._done():
            for item in done.items:
                found.setdefault((item.kind, item.name), []).append(item)
        return found

    def _unique(self) -> dict[tuple[str, str], Registered]:
        return {key: items[0] for key, items in self._by_name().items() if len(items) == 1}

    def _models(self) -> dict[str, list[Shipped]]:
        found: dict[str, list[Shipped]] = {}
        for candidate, done in self._done():
            for name, path in done.models:
                found.setdefault(name, []).append((name, candidate.origin, path))
        return found

    def model_folder(self, name: str) -> Path | None:
        """The folder or file of a model that ships; None where no plugin has one of that name.

        Raises:
            PluginError: when two plugins have one; both distributions are named.
            ModelError: when the package that brings it is not installed, with the line that installs it.
        """
        likely = self._mentioning("nfilter_models")
        for candidate in likely:
            if candidate.files.may_name(name):
                self._import(candidate)
        if name not in self._models():
            for candidate in likely:
                self._import(candidate)
        homes = self._models().get(name, [])
        if len(homes) > 1:
            raise PluginError(_model_clash(homes))
        path = homes[0][2] if homes else None
        if isinstance(path, NotInstalled):
            raise ModelError(f"model {name!r} {path}")
        return path

    def model_names(self) -> list[str]:
        """The names of all models that ship."""
        for candidate in self._mentioning("nfilter_models"):
            self._import(candidate)
        return list(self._models())

    def _folders(self, hook: str, of: Callable[[Imported], tuple[Path, ...]]) -> tuple[Path, ...]:
        return tuple(
            folder for candidate in self._mentioning(hook) for folder in of(self._import(candidate))
        )


class _Models(Mapping[str, Path]):
    """The models that ship, looked up when one is asked for."""

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins

    def __getitem__(self, name: str) -> Path:
        folder = self._plugins.model_folder(name)
        if folder is None:
            raise KeyError(name)
        return folder

    def __contains__(self, name: object) -> bool:
        try:
            return isinstance(name, str) and self._plugins.model_folder(name) is not None
        except ModelError:
            return True  # by name it is there, and what it needs is not

    def __iter__(self) -> Iterator[str]:
        return iter(self._plugins.model_names())

    def __len__(self) -> int:
        return len(self._plugins.model_names())


def load(
    points: Iterable[EntryPoint] | None = None,
    block: Iterable[str] | None = None,
    *,
    say: Callable[[str], None] | None = None,
    clock: Callable[[], float] = seconds_now,
) -> Plugins:
    """The catalogue of all plugins of the group, sorted by distribution and name. None is imported yet."""
    if points is None:
        points = entry_points(group=GROUP)
    if block is None:
        block = [name for name in os.environ.get(BLOCK_VARIABLE, "").split(",") if name.strip()]
    return Plugins(points, block, say, clock)


def _clash(items: list[Registered]) -> str:
    by = " and by ".join(f"{item.plugin!r} of {item.origin}" for item in items)
    return (
        f"{items[0].kind} {items[0].name!r} is registered twice: by {by}; uninstall one"
        + _or_block([item.plugin for item in items])
    )


def _model_clash(homes: list[Shipped]) -> str:
    by = " and by ".join(origin for _, origin, _ in homes)
    return f"model {homes[0][0]!r} is registered twice: by {by}; uninstall one"


def _or_block(plugins: list[str]) -> str:
    """The remedy that needs no uninstalling; none where both plugins have one name, which would block both."""
    if len(set(plugins)) < len(plugins):
        return ""
    return f", or block it: {BLOCK_VARIABLE}={plugins[-1]}"


__all__ = [
    "BLOCK_VARIABLE", "COMMAND_GROUP", "GROUP", "Failed", "Plugins", "Registered", "load",
]  # fmt: skip
