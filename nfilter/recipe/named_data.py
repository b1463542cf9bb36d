"""Data that a command names without a recipe: a file or folder of this machine, or an address."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from nfilter.api.data import FetchesData, FindsSettings, ShowsBytes, show_no_bytes
from nfilter.api.errors import SourceError
from nfilter.api.types import JSON
from nfilter.recipe.hosts import allowed_source_hosts, unlisted_source_hosts
from nfilter.registry.loading import Plugins, Registered

_UNPACK = {
    ".gz": "gunzip",
    ".zst": "unzstd",
    ".xz": "unxz",
    ".bz2": "bunzip2",
    ".zip": "unzip",
    ".tar": "tar -xf",
    ".tgz": "tar -xf",
}
DataName: TypeAlias = Path | str
"""A path, or as text an address."""


@dataclass(frozen=True, slots=True)
class NamedData:
    """Data that can be read: its name, the source that reads it, and the settings of that.

    ``found`` are the settings among them that the source found in the data.
    """

    name: DataName
    item: Registered
    config: Any
    base_dir: Path
    found: Mapping[str, JSON] = field(default_factory=dict)

    def source(self) -> Any:
        """Return the source, to read from the start."""
        return self.item.cls(self.config, self.base_dir)

    def unlisted_hosts(self) -> list[str]:
        """Return the hosts that a recipe with this data reads from only if its user allows them."""
        return unlisted_source_hosts(self.item.cls, self.config, ())


def source_for(plugins: Plugins, data: DataName) -> Registered:
    """Return the source for a file or folder, by its ending.

    Raises:
        SourceError: when no source reads such files.
    """
    endings: dict[str, Registered] = {}
    for item in plugins.of_kind("source"):
        for suffix in getattr(item.cls, "suffixes", ()):
            endings.setdefault(suffix, item)
    if isinstance(data, Path) and data.is_dir() and "/" in endings:
        return endings["/"]
    path = data if isinstance(data, Path) else PurePosixPath(bare(data))
    found = endings.get(path.suffix.lower())
    if found is None:
        raise SourceError(
            f"{data}: no source reads files that end in {path.suffix!r}{_unpack(path.suffix.lower())}; known: "
            f"{', '.join(endings)}"
        )
    return found


def _unpack(suffix: str) -> str:
    """Return how to unpack a compressed file, as a part of a sentence; empty for another one."""
    command = _UNPACK.get(suffix)
    return f"; unpack it first ({command}), and name the file in it" if command else ""


def bare(address: str) -> str:
    """Return an address without its query."""
    return address.partition("?")[0]


def named(
    plugins: Plugins,
    data: DataName,
    hosts: Iterable[str] = (),
    progress: ShowsBytes = show_no_bytes,
) -> NamedData:
    """Return the data that a person named, copied to this machine if it is at an address.

    Who types an address allows its host. ``hosts`` are the others that it may redirect to; ``progress`` shows the bytes.

    Raises:
        SourceError: when no source reads such files, or the file cannot be copied.
    """
    item = source_for(plugins, data)
    if isinstance(data, Path):
        base_dir = data.resolve().parent
        return _with_found(data, item, {"path": str(data.resolve())}, base_dir)
    if not issubclass(item.cls, FetchesData):
        raise SourceError(
            f"{data}: the source {item.name!r} reads no addresses; copy the file to this machine and give its path"
        )
    config = item.cls.Config.model_validate({"path": data})
    allowed = allowed_source_hosts(item.cls, {*item.cls.hosts(config), *hosts})
    item.cls.fetch(config, Path.cwd(), allowed, progress)
    return _with_found(data, item, {"path": data}, Path.cwd())


def _with_found(
    data: DataName, item: Registered, settings: Mapping[str, JSON], base_dir: Path
) -> NamedData:
    config = item.cls.Config.model_validate(settings)
    able = issubclass(item.cls, FindsSettings)
    found = item.cls.needed_settings(config, base_dir) if able else {}
    if found:
        config = item.cls.Config.model_validate({**settings, **found})
    return NamedData(data, item, config, base_dir, found)
