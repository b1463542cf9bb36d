"""Import one plugin: collect the classes it registers, or the reason it cannot be used, and the import time."""

from __future__ import annotations

import inspect
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pluggy

from nfilter.api import hookspecs
from nfilter.api.errors import NotInstalled, PluginError, did_you_mean
from nfilter.registry.given_files import GivenFile, place_in
from nfilter.registry.plugin_files import PluginFiles, files_of, imported_at_top
from nfilter.registry.provenance import code_of
from nfilter.registry.registration import class_faults

SLOW = 1.0
"""Seconds. An import this slow is reported if the plugin imports another distribution at top level."""
UNEXPLAINED = 3 * SLOW
"""Seconds. The limit for a plugin that does not: on a busy machine a fast import can take a second."""


@dataclass(frozen=True, slots=True)
class Registered:
    """A class that a plugin registered, with its origin."""

    kind: str
    name: str
    cls: Any
    plugin: str
    distribution: str
    version: str
    file: GivenFile | None = None

    @property
    def origin(self) -> str:
        """Distribution and version as displayed; of a plugin that was loaded as a file, its path."""
        return f"{self.distribution} {self.version}".rstrip()

    @property
    def identity(self) -> str:
        """The origin as used in fingerprints, where a file counts by its content alone, wherever it lies."""
        return self.origin if self.file is None else "file"

    @property
    def code(self) -> str:
        """SHA-256 over the files of its package, so that an edited plugin counts as another one."""
        return code_of(self.cls)


@dataclass(frozen=True, slots=True)
class Failed:
    """A plugin that failed to load, with the error."""

    plugin: str
    distribution: str
    error: str


@dataclass(frozen=True, slots=True)
class Imported:
    """What a plugin brought; nothing where it ``failed``. ``slow`` says what its import cost, where that is much.

    ``seconds`` is the time of the import and of its registration hooks, ``hooks`` the names of all hooks that it has.
    """

    items: tuple[Registered, ...] = ()
    models: tuple[tuple[str, Path | NotInstalled], ...] = ()
    prompts: tuple[Path, ...] = ()
    recipes: tuple[Path, ...] = ()
    failed: Failed | None = None
    slow: str | None = None
    seconds: float = 0.0
    hooks: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Candidate:
    """An installed plugin, or one that is given as a file, imported or not. ``number`` is its place in the order of loading."""

    point: EntryPoint | GivenFile
    number: int

    @property
    def name(self) -> str:
        """The name of its entry point, or of its file."""
        return self.point.name

    @property
    def file(self) -> GivenFile | None:
        """The file that it is given as; None if it is installed."""
        return self.point if isinstance(self.point, GivenFile) else None

    @property
    def distribution(self) -> str:
        """The distribution that it is a part of; the path of a file."""
        return distribution_of(self.point)[0]

    @property
    def key(self) -> str:
        """What tells it from every other plugin."""
        return f"{self.number}:{self.name}"

    @property
    def origin(self) -> str:
        """The plugin, its distribution and version, as shown to people."""
        distribution, version = distribution_of(self.point)
        return f"{self.name!r} of {distribution} {version}".rstrip()

    @cached_property
    def files(self) -> PluginFiles:
        """What its source says, read without importing it."""
        if isinstance(self.point, GivenFile):
            return PluginFiles(self.point.text)
        return files_of(self.point.value.partition(":")[0])


def seconds_now() -> float:
    """Return the time of the processor that imports are timed by: a busy machine makes no import slow."""
    return time.process_time()


def distribution_of(point: EntryPoint | GivenFile) -> tuple[str, str]:
    """Name and version of the distribution that an entry point is a part of; the path of a file, which has no version."""
    if isinstance(point, GivenFile):
        return point.shown, ""
    return (point.dist.name, point.dist.version) if point.dist else ("unknown", "0")


def import_plugin(
    candidate: Candidate,
    manager: pluggy.PluginManager,
    clock: Callable[[], float],
) -> Imported:
    """Import a plugin, call its registration hooks and validate the classes. Exceptions are recorded, not raised."""
    before = set(sys.modules)
    start = clock()
    try:
        imported, module = _import(candidate)
        # Registered last, so a plugin that failed receives no events. A module in two distributions is registered once.
        if module not in manager.get_plugins():
            manager.register(module, name=candidate.key)
    except PluginError as error:
        imported = _failed(candidate, str(error))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a broken plugin must not break the others
        place = f" ({place_in(candidate.file, error)})" if candidate.file is not None else ""
        imported = _failed(candidate, f"{type(error).__name__}: {error}{place}")
    seconds = clock() - start
    return replace(imported, seconds=seconds, slow=_slow(candidate, seconds, before))


def _failed(candidate: Candidate, error: str) -> Imported:
    return Imported(failed=Failed(candidate.name, candidate.distribution, error))


def _slow(candidate: Candidate, seconds: float, before: Iterable[str]) -> str | None:
    if seconds < SLOW:
        return None
    top = candidate.point.value.partition(":")[0].partition(".")[0]
    own = {
        name: module
        for name, module in list(sys.modules.items())
        if module is not None and name.partition(".")[0] == top
    }
    heavy = imported_at_top(own, before)
    text = f"plugin {candidate.name!r} of {candidate.distribution} took {seconds:.1f} s to import"
    if not heavy and seconds < UNEXPLAINED:
        return None
    if not heavy:
        return f"{text}; move the slow imports into the functions that need them"
    first = heavy[0].partition(" ")[0]
    return (
        f"{text}: at top level it imports {', '.join(heavy)}; with `import {first}` inside the functions that need it, "
        "it is fast to list"
    )


def _import(candidate: Candidate) -> tuple[Imported, Any]:
    module = candidate.point.load()
    _refuse_unknown_hooks(module)
    hooks = tuple(name for name in hookspecs.HOOKS if name in vars(module))
    if candidate.file is not None and not hooks:
        raise PluginError(
            "it has no hook; write @nfilter.hookimpl above def nfilter_stages(): return (MyStage,), or above another hook"
        )
    items = tuple(_items(module, candidate))
    return (
        Imported(
            items,
            tuple(_models(module)),
            tuple(_folders(module, "nfilter_prompts")),
            tuple(_folders(module, "nfilter_recipes")),
            hooks=hooks,
        ),
        module,
    )


def _items(module: Any, candidate: Candidate) -> list[Registered]:
    distribution, version = distribution_of(candidate.point)
    items: list[Registered] = []
    faults: list[str] = []
    for hook, kind in hookspecs.REGISTRATIONS.items():
        for cls in _classes(module, hook, faults):
            wrong = class_faults(kind, cls, candidate.name)
            faults += [f"{hook}: {text}" for text in wrong]
            if not wrong:
                items.append(
                    Registered(
                        kind, cls.name, cls, candidate.name, distribution, version, candidate.file
                    )
                )
    counts = Counter((item.kind, item.name) for item in items)
    faults += [
        f"{kind} {name!r} is registered twice by this plugin itself; each class needs a name of its own"
        for (kind, name), count in counts.items()
        if count > 1
    ]
    if faults:
        raise PluginError("\n    ".join(("its classes cannot be used:", *faults)))
    return items


def _classes(module: Any, hook: str, faults: list[str]) -> list[Any]:
    found = _call(module, hook)
    if isinstance(found, type):
        faults.append(
            f"{hook}: it returns the class {found.__name__}; write return ({found.__name__},)"
        )
        return []
    return _listed(found, hook, faults, "classes")


def _listed(found: Any, hook: str, faults: list[str], what: str) -> list[Any]:
    if isinstance(found, str | bytes | Path) or not isinstance(found, Iterable):
        shown = "None" if found is None else f"{found!r:.60}"
        faults.append(
            f"{hook}: it returns {shown}, not {what}; write return (..., ) with all of them"
        )
        return []
    return list(found)


def _models(module: Any) -> Iterator[tuple[str, Path | NotInstalled]]:
    found = _call(module, "nfilter_models") or {}
    if not isinstance(found, Mapping) or not all(
        isinstance(name, str) and isinstance(path, Path | NotInstalled)
        for name, path in found.items()
    ):
        raise PluginError(
            f"nfilter_models: it returns {found!r:.80}; write return {{'name': Path(...)}}, names to folders"
        )
    yield from found.items()


def _folders(module: Any, hook: str) -> list[Path]:
    faults: list[str] = []
    folders = _listed(_call(module, hook), hook, faults, "folders")
    faults += [
        f"{hook}: {folder!r:.80} is no pathlib.Path; write Path({str(folder)!r:.80})"
        for folder in folders
        if not isinstance(folder, Path)
    ]
    if faults:
        raise PluginError("\n    ".join(faults))
    return folders


def _call(module: Any, hook: str) -> Any:
    function = getattr(module, hook, None)
    return function() if function is not None else ()


def _refuse_unknown_hooks(module: Any) -> None:
    known = set(hookspecs.HOOKS)
    for name in vars(module):
        marked = getattr(getattr(module, name), "nfilter_impl", None) is not None
        if (marked or name.startswith("nfilter_")) and name not in known:
            if not marked and not callable(getattr(module, name)):
                continue
            raise PluginError(f"no hook is called {name!r}{did_you_mean(name, known)}")
        if name in known and not marked:
            raise PluginError(f"{name} is not marked; write @nfilter.hookimpl above it")
        if name in known:
            _refuse_other_arguments(name, getattr(module, name))


def _refuse_other_arguments(name: str, function: Any) -> None:
    """Refuse a hook with an argument that is never passed: arguments of hooks are passed by name."""
    passed = list(inspect.signature(getattr(hookspecs, name)).parameters)
    parameters = inspect.signature(function).parameters.values()
    others = [each.name for each in parameters if each.name not in passed]
    if others:
        raise PluginError(
            f"{name}: it has the argument {others[0]!r}, which is not passed; write def {name}({', '.join(passed)})"
        )
