"""Discover plugins through entry points and look up the classes that they register.

A plugin is imported only when its contents are needed: the plugin that contains a requested name, or all plugins for a
listing and before a name is reported as unknown. Built-in methods use the same entry-point group as third-party plugins.
A plugin that fails to import does not affect the others; errors about unknown names list it. Plugins that a person names
as files are imported at once, after the installed ones in order, and one that fails is an error.
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
from nfilter.registry.given_files import GivenFile
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
Hints = Callable[[str], Iterable[str]]
"""Returns sentences about where else an unknown name may come from, such as a file that an earlier run was made with."""
Shipped = tuple[str, str, Path | NotInstalled]
"""A model that ships with a plugin: name, origin of the plugin, path of the model."""
COMMAND_GROUP = "nfilter.commands"
BLOCK_VARIABLE = "NFILTER_BLOCK_PLUGINS"
_HOOKS = {kind: hook for hook, kind in hookspecs.REGISTRATIONS.items()}


class Plugins:
    """The installed plugins and those given as files. Each query imports only the plugins needed to answer it."""

    def __init__(
        self,
        points: Iterable[EntryPoint],
        blocked: Iterable[str] = (),
        say: Callable[[str], None] | None = None,
        clock: Callable[[], float] = seconds_now,
        *,
        files: Iterable[GivenFile] = (),
        hints: Hints | None = None,
    ) -> None:
        """Find the plugins and import those given as files.

        Args:
            points: The entry points of the installed plugins.
            blocked: Names of entry points that are never imported.
            say: Receives one message per plugin whose import is slow.
            clock: Returns seconds.
            files: Plugins that are loaded from a file.
            hints: Adds sentences to the error about an unknown name.

        Raises:
            PluginError: if a file cannot be used.
        """
        ordered = sorted(points, key=lambda point: (distribution_of(point)[0], point.name))
        shut = {name.strip() for name in blocked}
        self.blocked = tuple(point.name for point in ordered if point.name in shut)
        self._candidates = [
            Candidate(point, number)
            for number, point in enumerate(ordered)
            if point.name not in shut
        ]
        self.files = tuple({file.place: file for file in files}.values())
        self._candidates += [
            Candidate(file, len(ordered) + number) for number, file in enumerate(self.files)
        ]
        self._points, self._hints = tuple(ordered), hints or _no_hints
        self._imported: dict[Candidate, Imported] = {}
        self._say = say or (lambda _text: None)
        self._clock = clock
        self.manager = pluggy.PluginManager("nfilter")
        self.manager.add_hookspecs(hookspecs)
        for candidate in self._candidates:
            if candidate.file is not None:
                self._import_file(candidate, candidate.file)

    def with_files(self, files: Iterable[GivenFile]) -> Plugins:
        """Return the same plugins and those in ``files``.

        Raises:
            PluginError: if a file cannot be used.
        """
        every = (*self.files, *files)
        say, clock, hints = self._say, self._clock, self._hints
        return Plugins(self._points, self.blocked, say, clock, files=every, hints=hints)

    # --- queries -----------------------------------------------------------------------------------------------

    @property
    def registered(self) -> Mapping[tuple[str, str], Registered]:
        """All classes by kind and name, without the names that more than one plugin registers (see ``clashes``)."""
        self._import_all()
        return self._unique()

    @property
    def loaded(self) -> tuple[tuple[Candidate, Imported], ...]:
        """All plugins in loading order, each with what it brought."""
        self._import_all()
        return tuple(self._done())

    @property
    def failed(self) -> tuple[Failed, ...]:
        """The plugins that failed to load."""
        self._import_all()
        return self._failed()

    @property
    def clashes(self) -> tuple[str, ...]:
        """One message per name that more than one plugin registers."""
        self._import_all()
        classes = [items for items in self._by_name().values() if len(items) > 1]
        models = [shipped for shipped in self._models().values() if len(shipped) > 1]
        return (*map(_clash, classes), *map(_model_clash, models))

    @property
    def imported(self) -> tuple[Registered, ...]:
        """The classes of the plugins imported so far."""
        return tuple(item for items in self._by_name().values() for item in items)

    @property
    def imported_plugins(self) -> tuple[str, ...]:
        """The names of the plugins imported so far, in loading order."""
        return tuple(
            candidate.name for candidate in self._candidates if candidate in self._imported
        )

    @cached_property
    def models(self) -> Mapping[str, Path]:
        """Models that ship with plugins, by name. Looking up a name that two plugins register raises PluginError."""
        return _Models(self)

    @cached_property
    def backends(self) -> Mapping[str, type]:
        """The classes of backends by name. Looking up a name that two plugins register raises PluginError."""
        return _Backends(self)

    @property
    def prompt_directories(self) -> tuple[Path, ...]:
        """All prompt template directories."""
        return self._folders("nfilter_prompts", lambda imported: imported.prompts)

    @property
    def recipe_directories(self) -> tuple[Path, ...]:
        """All recipe directories."""
        return self._folders("nfilter_recipes", lambda imported: imported.recipes)

    def prompt_directories_with(self, template: str) -> tuple[Path, ...]:
        """The directories that may contain ``template``. Only plugins that have a file of that name are imported."""
        likely = [
            each
            for each in self._mentioning("nfilter_prompts")
            if each.file is not None or each.files.may_hold(template)
        ]
        return tuple(folder for each in likely for folder in self._import(each).prompts)

    def of_kind(self, kind: str) -> list[Registered]:
        """All classes of one kind, sorted by name, without names that clash."""
        for candidate in self._mentioning(_HOOKS[kind]):
            self._import(candidate)
        items = [item for item in self._unique().values() if item.kind == kind]
        return sorted(items, key=lambda item: item.name)

    def find(self, kind: str, name: str) -> Registered | None:
        """Return the class registered under ``name``, or None.

        Raises:
            PluginError: if two plugins register it; the message names both distributions.
        """
        for candidate in self._mentioning(_HOOKS[kind]):
            if candidate.files.may_name(name):
                self._import(candidate)
        items = self._by_name().get((kind, name), [])
        if not items:
            # The name may be composed at run time, so it need not occur in any source file.
            self._import_all()
            items = self._by_name().get((kind, name), [])
        if len(items) > 1:
            raise PluginError(_clash(items))
        return items[0] if items else None

    def get(self, kind: str, name: str) -> Registered:
        """Return the class registered under ``name``.

        Raises:
            PluginError: if there is none or more than one. The message has the closest name and the plugins that failed
                to load or are blocked.
        """
        item = self.find(kind, name)
        if item is None:
            raise PluginError(self.unknown(kind, name))
        return item

    def unknown(self, kind: str, name: str) -> str:
        """The error message for a name that no plugin registers."""
        text = f"unknown {kind} {short(repr(name))}"
        text += self._synonym(kind, name) or did_you_mean(
            name, [item.name for item in self.of_kind(kind)]
        )
        return text + self.unavailable() + "".join(f"\n  {hint}" for hint in self._hints(name))

    def unavailable(self) -> str:
        """One line per plugin that failed to load or is blocked; appended to errors about unknown names."""
        text = ""
        for failed in self.failed:
            text += f"\n  plugin {failed.plugin!r} of {failed.distribution} did not load: {failed.error}"
        for blocked in self.blocked:
            text += f"\n  plugin {blocked!r} is blocked by {BLOCK_VARIABLE}"
        return text

    def _synonym(self, kind: str, name: str) -> str:
        """The suggestion for a name that other tools use."""
        for item in self.of_kind(kind):
            known = also_known(getattr(item.cls, "also_known", {}), name)
            if known is not None:
                return f"; write {known}"
        return ""

    def announce(self, hook: str, event: object, complain: Callable[[str], None]) -> None:
        """Send ``event`` to every listener of ``hook``. Exceptions of a listener go to ``complain`` and are not raised."""
        listeners = {candidate.key: candidate for candidate in self._mentioning(hook)}
        for candidate in listeners.values():
            self._import(candidate)
        implementations = {
            each.plugin_name: each for each in getattr(self.manager.hook, hook).get_hookimpls()
        }
        for key, candidate in listeners.items():
            if key not in implementations:
                continue
            implementation = implementations[key]
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

    def _import_file(self, candidate: Candidate, file: GivenFile) -> None:
        failed = self._import(candidate).failed
        if failed is not None:
            file.forget()
            raise PluginError(f"{failed.distribution}: the plugin did not load: {failed.error}")

    def _import_all(self) -> None:
        for candidate in self._candidates:
            self._import(candidate)

    def _mentioning(self, hook: str) -> list[Candidate]:
        return [each for each in self._candidates if each.files.mentions(hook)]

    def _done(self) -> Iterator[tuple[Candidate, Imported]]:
        """The imported plugins in loading order."""
        return (
            (candidate, self._imported[candidate])
            for candidate in self._candidates
            if candidate in self._imported
        )

    def _failed(self) -> tuple[Failed, ...]:
        return tuple(done.failed for _, done in self._done() if done.failed is not None)

    def _by_name(self) -> dict[tuple[str, str], list[Registered]]:
        by_name: dict[tuple[str, str], list[Registered]] = {}
        for _, done in self._done():
            for item in done.items:
                by_name.setdefault((item.kind, item.name), []).append(item)
        return by_name

    def _unique(self) -> dict[tuple[str, str], Registered]:
        return {key: items[0] for key, items in self._by_name().items() if len(items) == 1}

    def _models(self) -> dict[str, list[Shipped]]:
        models: dict[str, list[Shipped]] = {}
        for candidate, done in self._done():
            for name, path in done.models:
                models.setdefault(name, []).append((name, candidate.origin, path))
        return models

    def model_folder(self, name: str) -> Path | None:
        """The path of a model that ships with a plugin, or None if no plugin has one of that name.

        Raises:
            PluginError: if two plugins have one; the message names both distributions.
            ModelError: if the package that contains it is not installed; the message has the pip command.
        """
        likely = self._mentioning("nfilter_models")
        for candidate in likely:
            if candidate.files.may_name(name):
                self._import(candidate)
        if name not in self._models():
            for candidate in likely:
                self._import(candidate)
        shipped = self._models().get(name, [])
        if len(shipped) > 1:
            raise PluginError(_model_clash(shipped))
        path = shipped[0][2] if shipped else None
        if isinstance(path, NotInstalled):
            raise ModelError(f"model {name!r} {path}")
        return path

    def model_names(self) -> list[str]:
        """The names of all models that ship with plugins."""
        for candidate in self._mentioning("nfilter_models"):
            self._import(candidate)
        return list(self._models())

    def _folders(self, hook: str, of: Callable[[Imported], tuple[Path, ...]]) -> tuple[Path, ...]:
        return tuple(
            folder for candidate in self._mentioning(hook) for folder in of(self._import(candidate))
        )


class _Models(Mapping[str, Path]):
    """A lazy mapping from the names of shipped models to their paths."""

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
            return True  # the name is registered, but its package is not installed

    def __iter__(self) -> Iterator[str]:
        return iter(self._plugins.model_names())

    def __len__(self) -> int:
        return len(self._plugins.model_names())


class _Backends(Mapping[str, type]):
    """A lazy mapping from the names of backends to their classes."""

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins

    def __getitem__(self, name: str) -> type:
        item = self._plugins.find("backend", name)
        if item is None:
            raise KeyError(name)
        cls: type = item.cls
        return cls

    def __iter__(self) -> Iterator[str]:
        return (item.name for item in self._plugins.of_kind("backend"))

    def __len__(self) -> int:
        return len(self._plugins.of_kind("backend"))


def load(
    points: Iterable[EntryPoint] | None = None,
    block: Iterable[str] | None = None,
    *,
    files: Iterable[GivenFile] = (),
    hints: Hints | None = None,
    say: Callable[[str], None] | None = None,
    clock: Callable[[], float] = seconds_now,
) -> Plugins:
    """Return all plugins of the entry-point group, sorted by distribution and name, without importing any, and ``files``.

    Raises:
        PluginError: if a file cannot be used.
    """
    if points is None:
        points = entry_points(group=GROUP)
    if block is None:
        block = [name for name in os.environ.get(BLOCK_VARIABLE, "").split(",") if name.strip()]
    return Plugins(points, block, say, clock, files=files, hints=hints)


def _no_hints(_name: str) -> tuple[str, ...]:
    return ()


def _clash(items: list[Registered]) -> str:
    by = " and by ".join(f"{item.plugin!r} of {item.origin}" for item in items)
    file = items[-1].file
    if file is None:
        return (
            f"{items[0].kind} {items[0].name!r} is registered twice: by {by}; uninstall one"
            + _or_block([item.plugin for item in items])
        )
    installed = [item.plugin for item in items if item.file is None]
    block = f", or block the other: {BLOCK_VARIABLE}={','.join(installed)}" if installed else ""
    return f"{items[0].kind} {items[0].name!r} is registered twice: by {by}; leave out {file.flag}{block}"


def _model_clash(shipped: list[Shipped]) -> str:
    by = " and by ".join(origin for _, origin, _ in shipped)
    return f"model {shipped[0][0]!r} is registered twice: by {by}; uninstall one"


def _or_block(plugins: list[str]) -> str:
    """The remedy without uninstalling; empty if both plugins have the same name, because blocking it blocks both."""
    if len(set(plugins)) < len(plugins):
        return ""
    return f", or block it: {BLOCK_VARIABLE}={plugins[-1]}"


__all__ = [
    "BLOCK_VARIABLE", "COMMAND_GROUP", "GROUP", "Failed", "Plugins", "Registered", "load",
]  # fmt: skip
