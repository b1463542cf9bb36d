"""`nfilter plugins show`: the settings of an installed component, as a table or as JSON."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Union, get_args, get_origin

from nfilter.api.capabilities import (
    Adapts,
    Embeds,
    Encodes,
    Generates,
    LendsModule,
    OpenStreams,
    Scores,
    Streams,
    Tokenizes,
)
from nfilter.api.errors import PluginError, did_you_mean
from nfilter.registry.loading import Plugins, Registered

if TYPE_CHECKING:
    from rich.console import Console


_ABILITY = {
    Generates: "answers",
    Streams: "answers as a stream",
    OpenStreams: "takes requests while it answers",
    Embeds: "embeds texts",
    Scores: "scores tokens",
    Encodes: "encodes conversations",
    LendsModule: "runs here and lends its network",
    Adapts: "takes a trained adapter",
    Tokenizes: "identifies its tokenizer",
}


def summary(cls: Any) -> str:
    """The first sentence of a class's docstring."""
    text = inspect.getdoc(cls) or ""
    return " ".join(text.split("\n\n", 1)[0].split())


def show_one(plugins: Plugins, name: str, console: Console, *, as_json: bool) -> None:
    """Print the docstring and settings of the classes called ``name``.

    Raises:
        PluginError: if there is none (the message has the closest name and the failed plugins), or if the name clashes.
    """
    items = [item for item in plugins.registered.values() if item.name == name]
    clashes = [clash for clash in plugins.clashes if f" {name!r} is" in clash]
    if clashes:
        raise PluginError("\n".join(clashes))
    if not items:
        known = [item.name for item in plugins.registered.values()]
        raise PluginError(
            f"nothing is called {name!r}{did_you_mean(name, known)} (`nfilter plugins` lists all)"
            f"{plugins.unavailable()}"
        )
    if as_json:
        console.file.write(json.dumps([_described(item) for item in items]) + "\n")
        return
    for item in items:
        _print(item, console)


Setting = tuple[str, str, str, str]
"""Name, type, default and description of a setting, as text."""

BESIDE: Final = {
    "backend": ("thoughts", "[opening mark, closing mark]", "The marks around the model's reasoning; [] to cut nothing."),
    "trainer": ("loss", "a loss, or {use: LOSS, ...}", "An online loss: token weights computed during training."),
    "source": ("noise", "{ratio: 0.5, ...}", "Makes a known share of the labels wrong, to measure detection."),
}  # fmt: skip
"""The setting that a recipe accepts for every plugin of a kind, in addition to its own: name, type, description."""


def _described(item: Registered) -> dict[str, Any]:
    config = getattr(item.cls, "Config", None)
    return {
        "kind": item.kind,
        "name": item.name,
        "distribution": item.distribution,
        "version": item.version,
        "doc": inspect.getdoc(item.cls) or "",
        "schema": config.model_json_schema() if config is not None else {},
        "beside": dict(zip(("setting", "type", "what"), BESIDE[item.kind], strict=True))
        if item.kind in BESIDE
        else None,
    }


def _print(item: Registered, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    console.print(f"{item.kind} {item.name}  ({item.origin})", style="bold", markup=False)
    console.print(inspect.getdoc(item.cls) or "", markup=False)
    rows = rows_of_item(item)
    if not rows:
        return
    table = Table(box=None, pad_edge=False)
    for title in ("setting", "type", "default", "what it is"):
        table.add_column(title)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print()
    console.print(table)


def rows_of_item(item: Registered) -> list[Setting]:
    """Return the settings that a recipe accepts for a plugin: its own, and the one that all of its kind have."""
    config = getattr(item.cls, "Config", None)
    rows = list(settings_of(config)) if config is not None else []
    if item.kind in BESIDE:
        name, kind, what = BESIDE[item.kind]
        rows.append((name, kind, "None", what))
    return rows


def settings_of(config: Any, prefix: str = "") -> Iterator[Setting]:
    """Yield name, type, default and description of every setting of a Config class, each before those inside it (``sure.view``)."""
    defaults = config.model_construct()
    for name, info in config.model_fields.items():
        key = f"{prefix}{info.alias or name}"
        nested = list(_models_in(info.annotation))
        value = None if info.is_required() else getattr(defaults, name)
        default = "(required)" if info.is_required() else repr(value)
        if nested and value is not None:
            default = "as below"
        yield key, _type_name(info.annotation), default, _what(info)
        for model in nested:
            yield from settings_of(model, f"{key}.")


def _what(info: Any) -> str:
    """The description of a setting, and what it needs of the model that it names."""
    marks = [mark for mark in info.metadata if hasattr(mark, "capability")]
    needs = ", ".join(
        f"a model {_with(mark.capability)}" + (" with logprobs" if mark.logprobs else "")
        for mark in marks
    )
    return f"{info.description or ''} (Needs {needs}.)" if needs else info.description or ""


def _models_in(annotation: Any) -> Iterator[Any]:
    if hasattr(annotation, "model_fields"):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def _with(capability: type) -> str:
    if capability in _ABILITY:
        return f"that {_ABILITY[capability]}"
    return f"with the capability {capability.__name__}"


def _type_name(annotation: Any) -> str:
    """A type as shown to recipe authors: the values of a Literal, without bounds and validators."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_name(parts[0])
    if origin in {Union, UnionType}:
        return " | ".join(dict.fromkeys(_type_name(part) for part in parts))
    if origin is Literal:
        return " | ".join(repr(part) for part in parts)
    if origin is not None:
        return f"{_type_name(origin)}[{', '.join(_type_name(part) for part in parts)}]"
    names = {NoneType: "None", Ellipsis: "..."}
    return names.get(annotation) or str(getattr(annotation, "__name__", annotation))
