"""Finding plugins: entry points in, a catalogue with provenance out.

Built-in methods come through the same entry-point group as a stranger's. A plugin that fails to import breaks
nothing else; it is remembered and named whenever something is asked for that nobody has.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pluggy

from nfilter import hookspecs
from nfilter.errors import PluginError, also_known, did_you_mean, short
from nfilter.metrics import SECTIONS

GROUP = "nfilter"
COMMAND_GROUP = "nfilter.commands"
BLOCK_VARIABLE = "NFILTER_BLOCK_PLUGINS"


@dataclass(frozen=True, slots=True)
class Registered:
    """A class that a plugin registered, and where it comes from."""

    kind: str
    name: str
    cls: Any
    plugin: str
    distribution: str
    version: str

    @property
    def origin(self) -> str:
        """Distribution and version, as shown to people and kept in fingerprints."""
        return f"{self.distribution} {self.version}"


@dataclass(frozen=True, slots=True)
class Failed:
    """A plugin that could not be loaded, with what it raised."""

    plugin: str
    distribution: str
    error: str


@dataclass(frozen=True)
class Plugins:
    """The catalogue of a process: what is registered by kind and name, and what failed or was blocked."""

    manager: pluggy.PluginManager
    registered: Mapping[tuple[str, str], Registered]
    failed: tuple[Failed, ...] = ()
    blocked: tuple[str, ...] = ()
    models: Mapping[str, Path] = field(default_factory=dict)
    prompt_directories: tuple[Path, ...] = ()
    recipe_directories: tuple[Path, ...] = ()

    def of_kind(self, kind: str) -> list[Registered]:
        """All of one kind, by name."""
        return sorted(
            (item for item in self.registered.values() if item.kind == kind),
            key=lambda item: item.name,
        )

    def get(self, kind: str, name: str) -> Registered:
        """What is registered under that name.

        Raises:
            PluginError: names the nearest, and every plugin that failed to load or is blocked.
        """
        item = self.registered.get((kind, name))
        if item is None:
            raise PluginError(self.unknown(kind, name))
        return item

    def unknown(self, kind: str, name: str) -> str:
        """The sentence for a name that nobody registered."""
        text = f"unknown {kind} {short(repr(name))}"
        text += self._called_here(kind, name) or did_you_mean(
            name, [item.name for item in self.of_kind(kind)]
        )
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
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            try:
                implementation.function(*[event for _ in implementation.argnames])
            except Exception as error:  # noqa: BLE001 - a listener must not end a run
                complain(f"plugin {implementation.plugin_name!r} failed in {hook}: {error!r}")


def load(points: Iterable[EntryPoint] | None = None, block: Iterable[str] | None = None) -> Plugins:
    """Load all plugins of the group, sorted by distribution and name.

    Raises:
        PluginError: when two plugins register the same name; both distributions are named.
    """
    if points is None:
        points = entry_points(group=GROUP)
    if block is None:
        block = [name for name in os.environ.get(BLOCK_VARIABLE, "").split(",") if name.strip()]
    blocked = {name.strip() for name in block}
    manager = pluggy.PluginManager("nfilter")
    manager.add_hookspecs(hookspecs)
    loader = _Loader(manager)
    for point in sorted(points, key=lambda point: (_distribution(point)[0], point.name)):
        if point.name in blocked:
            loader.blocked.append(point.name)
        else:
            loader.load(point)
    return Plugins(
        manager,
        loader.registered,
        tuple(loader.failed),
        tuple(loader.blocked),
        loader.models,
        tuple(loader.prompts),
        tuple(loader.recipes),
    )


def _distribution(point: EntryPoint) -> tuple[str, str]:
    return (point.dist.name, point.dist.version) if point.dist else ("unknown", "0")


class _Loader:
    """One pass over the entry points; what it collected becomes a ``Plugins``."""

    def __init__(self, manager: pluggy.PluginManager) -> None:
        self.manager = manager
        self.registered: dict[tuple[str, str], Registered] = {}
        self.points: dict[str, str] = {}
        self.failed: list[Failed] = []
        self.blocked: list[str] = []
        self.models: dict[str, Path] = {}
        self.model_origins: dict[str, str] = {}
        self.prompts: list[Path] = []
        self.recipes: list[Path] = []

    def load(self, point: EntryPoint) -> None:
        distribution, version = _distribution(point)
        origin = f"{distribution} {version}"
        if point.name in self.points:
            raise PluginError(
                f"plugin {point.name!r} is there twice: in {self.points[point.name]} and in {origin}; uninstall one, or "
                f"block both: {BLOCK_VARIABLE}={point.name}"
            )
        self.points[point.name] = origin
        try:
            module = point.load()
            _refuse_unknown_hooks(module)
            items = self._items(module, point.name, distribution, version)
            models, prompts, recipes = self._extras(module)
            # Last, so that a plugin that failed listens to nothing.
            self.manager.register(module, name=point.name)
        except PluginError as error:
            self.failed.append(Failed(point.name, distribution, str(error)))
            return
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a broken plugin must not break the others
            self.failed.append(Failed(point.name, distribution, f"{type(error).__name__}: {error}"))
            return
        for item in items:
            self._add(item)
        for name, folder in models.items():
            self._add_model(name, folder, f"{point.name!r} of {origin}")
        self.prompts.extend(prompts)
        self.recipes.extend(recipes)

    def _items(self, module: Any, plugin: str, distribution: str, version: str) -> list[Registered]:
        items = []
        for hook, kind in hookspecs.REGISTRATIONS.items():
            for cls in _call(module, hook):
                name = getattr(cls, "name", None)
                if not isinstance(name, str) or not name:
                    raise PluginError(f"{hook} returned {cls!r}, which has no name")
                if kind == "metric" and name in SECTIONS:
                    raise PluginError(
                        f"{hook} returned {cls!r}: metrics.json has figures of the engine's own under {name!r}; call the "
                        f"metric otherwise, like {plugin}_{name}"
                    )
                items.append(Registered(kind, name, cls, plugin, distribution, version))
        return items

    def _extras(self, module: Any) -> tuple[dict[str, Path], list[Path], list[Path]]:
        return (
            dict(_call(module, "nfilter_models")),
            list(_call(module, "nfilter_prompts")),
            list(_call(module, "nfilter_recipes")),
        )

    def _add(self, item: Registered) -> None:
        other = self.registered.get((item.kind, item.name))
        if other is not None:
            raise PluginError(
                f"{item.kind} {item.name!r} is registered twice: by {other.plugin!r} of {other.origin} and "
                f"by {item.plugin!r} of {item.origin}; uninstall one, or block it: "
                f"{BLOCK_VARIABLE}={item.plugin}"
            )
        self.registered[item.kind, item.name] = item

    def _add_model(self, name: str, folder: Path, origin: str) -> None:
        if name in self.models:
            raise PluginError(
                f"model {name!r} is registered twice: by {self.model_origins[name]} and by {origin}; uninstall one"
            )
        self.models[name] = folder
        self.model_origins[name] = origin


def _call(module: Any, hook: str) -> Any:
    function = getattr(module, hook, None)
    return function() if function is not None else ()


def _refuse_unknown_hooks(module: Any) -> None:
    known = {name for name in vars(hookspecs) if name.startswith("nfilter_")}
    for name in vars(module):
        marked = getattr(getattr(module, name), "nfilter_impl", None) is not None
        if (marked or name.startswith("nfilter_")) and name not in known:
            if not marked and not callable(getattr(module, name)):
                continue
            raise PluginError(f"no hook is called {name!r}{did_you_mean(name, known)}")
        if name in known and not marked:
            raise PluginError(f"{name} is not marked; write @nfilter.hookimpl above it")
