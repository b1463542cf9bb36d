"""Validate a class that a plugin registers: name, Config, constructor, methods and their signatures. Lists all faults."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nfilter.api.metrics import SECTIONS
from nfilter.api.settings import StageConfig
from nfilter.api.tools import COSTS, ToolArgs

_STAGE_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+")
_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NAME = re.compile(r"[A-Za-z0-9_./-]+")


@dataclass(frozen=True, slots=True)
class Method:
    """How nfilter calls a method: positional arguments, keyword arguments, and ``on_class`` for a classmethod."""

    name: str
    arguments: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    on_class: bool = False

    def shown(self) -> str:
        """The ``def`` line that a plugin has to write."""
        first = ("cls" if self.on_class else "self",)
        stars = ("*", *self.keywords) if self.keywords else ()
        mark = "@classmethod " if self.on_class else ""
        return f"{mark}def {self.name}({', '.join((*first, *self.arguments, *stars))})"


def _on_class(name: str, *arguments: str) -> Method:
    return Method(name, arguments, on_class=True)


CONTRACT = _on_class("contract", "config")
CAPABLE: tuple[Method, ...] = (
    Method("generate", ("requests",)), Method("stream", ("requests",)), Method("embed", ("texts",)),
    Method("score", ("samples", "adapter")), Method("encode", ("samples",), ("max_length", "turns")),
    Method("tokenizer_digest"), Method("decode", ("ids",)), Method("lend"), Method("adapted", ("ref",)),
    Method("prompt_end", ("request",)), Method("take_cut_texts"),
)  # fmt: skip
"""The methods of a model's capabilities."""


@dataclass(frozen=True, slots=True)
class Kind:
    """The requirements on classes of one kind.

    ``built``: arguments of the constructor. ``required``: methods that must exist. ``one_of``: at least one of these must
    exist. ``optional``: methods that are checked if they exist. ``taken``: recipe keys that a Config must not use.
    """

    built: tuple[str, ...]
    required: tuple[Method, ...] = ()
    one_of: tuple[Method, ...] = ()
    optional: tuple[Method, ...] = ()
    taken: tuple[str, ...] = ("use",)
    config: bool = True


KINDS: Mapping[str, Kind] = {
    "stage": Kind(
        ("config",),
        (CONTRACT,),
        (
            Method("process", ("chunk", "state", "ctx")),
            Method("process_tokens", ("chunk", "state", "ctx", "bit")),
        ),
        (Method("fit", ("stream", "ctx")), Method("fit_tokens", ("stream", "ctx"))),
        ("use", "skip"),
    ),
    "backend": Kind(
        ("config", "site"),
        (
            _on_class("abilities", "config"),
            _on_class("problems", "config", "site"),
            Method("fingerprint"),
            Method("close"),
        ),
        optional=(
            *CAPABLE,
            _on_class("price", "config"),
            _on_class("facts", "config", "site"),
            _on_class("hosts", "config"),
            _on_class("tool_problems", "config", "site"),
        ),
    ),
    "trainer": Kind(
        ("config",),
        (
            CONTRACT,
            _on_class("memory", "config", "model_config", "site"),
            Method("train", ("samples", "model", "out", "ctx", "start")),
        ),
        optional=(Method("lead"), Method("follow", ("site", "loss"))),
        taken=("use", "loss"),
    ),
    "source": Kind(
        ("config", "base_dir"),
        (
            _on_class("problems", "config", "base_dir"),
            _on_class("columns", "config", "base_dir"),
            Method("read"),
            Method("restore", ("sample",)),
        ),
        optional=(
            _on_class("identity", "config", "base_dir"),
            _on_class("hosts", "config"),
            _on_class("fetch", "config", "base_dir", "allowed", "progress"),
        ),
        taken=("use", "noise"),
    ),
    "exporter": Kind(("config",), (Method("export", ("run", "out")),), taken=()),
    "metric": Kind(
        (),
        one_of=(Method("compute", ("data",)), Method("compute_tokens", ("data",))),
        config=False,
    ),
    "loss": Kind(
        ("config",),
        (
            CONTRACT,
            Method("stats", ("logits_chunk", "labels")),
            Method("weigh", ("stats", "cached", "step")),
        ),
        optional=(Method("penalty", ("logits_chunk", "labels", "reference_logits")),),
    ),
    "tool": Kind(
        ("config", "site"),
        (
            _on_class("reads", "config"),
            _on_class("problems", "config", "site"),
            Method("call", ("args", "row")),
        ),
        optional=(_on_class("identity", "config", "site"),),
    ),
    "executor": Kind(
        ("config",),
        (_on_class("workers", "config"), _on_class("problems", "config"), Method("run", ("job",))),
    ),
}


def class_faults(kind: str, cls: Any, plugin: str) -> list[str]:
    """All reasons why ``cls`` is not a valid ``kind``, each with the code to write instead; empty if it is valid."""
    if not isinstance(cls, type):
        name = type(cls).__name__
        if type(cls).__module__ == "builtins":
            return [f"{cls!r:.80} is no class; return classes, like (MyStage,)"]
        fault = f"an object of {name} is no class; return the class itself, {name}, not {name}(...)"
        return [fault, *class_faults(kind, type(cls), plugin)]
    rules = KINDS[kind]
    faults = [*_name_faults(kind, cls, plugin)]
    if rules.config:
        faults += _config_faults(rules, cls)
    faults += _built_faults(rules, cls)
    faults += [text for method in rules.required for text in method_faults(cls, method)]
    present = [method for method in rules.one_of if hasattr(cls, method.name)]
    if rules.one_of and not present:
        shown = " or ".join(method.shown() for method in rules.one_of)
        faults.append(f"it has no method that does its work; write {shown}")
    for method in (*present, *(each for each in rules.optional if hasattr(cls, each.name))):
        faults += method_faults(cls, method)
    if kind == "loss" and getattr(cls, "mean_over", None) not in ("given", "weighed"):
        mean = getattr(cls, "mean_over", None)
        faults.append(f"its mean_over is {mean!r:.40}; write mean_over = 'given', or 'weighed'")
    if kind == "tool":
        faults += _tool_faults(cls)
    return [f"{cls.__module__}.{cls.__qualname__}: {text}" for text in faults]


def _tool_faults(cls: type) -> Iterator[str]:
    """What a model needs of a tool: a description, a class of cost, typed and described arguments."""
    description = getattr(cls, "description", None)
    if not isinstance(description, str) or not description.strip():
        yield f"its description is {description!r:.60}; write description = 'What it does and when to call it.'"
    cost = getattr(cls, "cost", None)
    if cost not in COSTS:
        yield f"its cost is {cost!r:.40}; write cost = 'free', or 'local', or 'paid'"
    args = getattr(cls, "Args", None)
    if not isinstance(args, type) or not issubclass(args, ToolArgs):
        yield (
            f"its Args is {getattr(args, '__name__', args)!r:.60}, which is no ToolArgs; write class MyArgs(nfilter.ToolArgs) "
            "with its arguments, and Args = MyArgs"
        )
        return
    for name, info in args.model_fields.items():
        if not info.description:
            yield (
                f"its argument {name!r} has no description, and a model reads nothing else of it; write {name}: ... = "
                "Field(description='...')"
            )


def _name_faults(kind: str, cls: type, plugin: str) -> Iterator[str]:
    name = getattr(cls, "name", None)
    own = re.sub(r"[^a-z0-9]+", "_", cls.__name__.lower()).strip("_") or "thing"
    like = f"{plugin.removeprefix('nfilter_')}.{own}" if kind == "stage" else own
    if name is None or isinstance(name, property):
        yield f"it has no name; write name = {like!r} in the class"
    elif not isinstance(name, str):
        yield f"its name is {name!r:.60}, which is no text; write name = {like!r}"
    elif kind == "stage" and not _STAGE_NAME.fullmatch(name):
        yield f"the name of a stage has the form plugin.stage, and {name!r:.60} has not; write name = {like!r}"
    elif not _NAME.fullmatch(name):
        yield f"its name {name!r:.60} has characters that a recipe cannot name it by; write name = {like!r}"
    elif kind == "tool" and not _TOOL_NAME.fullmatch(name):
        yield f"APIs take at most 64 letters, digits, _ and - for a tool, and {name!r:.80} is no such name; write name = {like!r}"
    elif kind == "metric" and name in SECTIONS:
        yield (
            f"metrics.json has figures of the engine's own under {name!r}; call the metric otherwise, like "
            f"{plugin}_{name}"
        )


def _config_faults(rules: Kind, cls: type) -> Iterator[str]:
    config = getattr(cls, "Config", None)
    if config is None:
        yield (
            "it has no Config; write class MyConfig(nfilter.StageConfig) with its settings, and Config = MyConfig"
        )
    elif not isinstance(config, type):
        yield f"its Config is {config!r:.60}, which is no class; write Config = {type(config).__name__}"
    elif not issubclass(config, StageConfig):
        yield f"its Config, {config.__name__}, is no StageConfig; write class {config.__name__}(nfilter.StageConfig)"
    else:
        for name, info in config.model_fields.items():
            key = info.alias or name
            if key in rules.taken:
                yield f"its Config has a setting {key!r}, a key that recipes use for something else; call it otherwise"


def _built_faults(rules: Kind, cls: type) -> Iterator[str]:
    given = ", ".join(rules.built)
    try:
        signature = inspect.signature(cls)
        signature.bind(*rules.built)
    except TypeError:
        yield (
            f"nfilter builds it as {cls.__name__}({given}), and it does not take that; write "
            f"{Method('__init__', rules.built).shown()}"
        )
    except ValueError:
        return


def method_faults(cls: type, method: Method) -> Iterator[str]:
    """Yield the reasons why nfilter cannot call ``method`` on ``cls``."""
    member = getattr(cls, method.name, None)
    if member is None:
        yield f"it has no method {method.name}; write {method.shown()}"
        return
    if not callable(member):
        yield f"its {method.name} is {type(member).__name__}, not a method; write {method.shown()}"
        return
    if inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member):
        yield f"its {method.name} is async, and nfilter calls plain functions; write {method.shown()}"
        return
    plain = inspect.isfunction(inspect.getattr_static(cls, method.name))
    first = ("self",) if plain and not method.on_class else ()
    if _takes(member, (*first, *method.arguments), method.keywords):
        return
    try:
        has = f"{method.name}{inspect.signature(member)}"
    except ValueError:
        has = method.name
    if method.on_class and plain and _takes(member, ("cls", *method.arguments), method.keywords):
        yield f"{has} is called on the class; write @classmethod above it"
    else:
        yield f"it has {has:.200}, and nfilter calls {method.shown()}"


def _takes(function: Callable[..., Any], arguments: Iterable[str], keywords: Iterable[str]) -> bool:
    try:
        inspect.signature(function).bind(*arguments, **dict.fromkeys(keywords))
    except TypeError:
        return False
    except ValueError:
        return True
    return True
