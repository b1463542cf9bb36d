"""The parts of a recipe that name a plugin, ``{use: NAME, ...}``: read, looked up and validated."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationInfo

from nfilter.answers.thoughts import Marks
from nfilter.api.capabilities import Needs
from nfilter.api.errors import PluginError, did_you_mean, short
from nfilter.api.settings import StageConfig
from nfilter.api.stages import Contract, ModelNeed
from nfilter.api.tool_settings import ToolUse, tool_uses
from nfilter.api.tools import ToolSite
from nfilter.noise.labels import NoiseConfig
from nfilter.recipe.faults import FaultsError, Parts, config_of, kind_of
from nfilter.recipe.yaml_lines import Where, YamlDocument
from nfilter.registry.catalogue import BESIDE
from nfilter.registry.loading import Plugins, Registered

LOSS = "loss"
THOUGHTS = "thoughts"
NOISE = "noise"
SKIP = "skip"
NO_SOURCE = "missing; write for example source: {use: jsonl, path: data.jsonl}"


@dataclass(frozen=True, slots=True)
class Reading:
    """What a recipe is validated with: its values with their lines, the plugins, and what its user allows.

    ``allow_hosts`` are hosts, ``allow`` are names of ``nfilter.api.tools.ALLOWANCES``.
    """

    document: YamlDocument
    plugins: Plugins
    allow_hosts: frozenset[str] = frozenset()
    allow: frozenset[str] = frozenset()

    def read_tool(self, use: ToolUse) -> ToolUse:
        """Return ``use`` with the settings of its tool, validated and with all defaults (``nfilter.Tools``).

        Raises:
            FaultsError: if there is no such tool, or a setting is wrong.
        """
        config = config_of(self._tool(use.use).cls.Config, dict(use.settings))
        return ToolUse(use.use, config.model_dump(mode="json", by_alias=True))

    def _tool(self, name: str) -> Registered:
        try:
            return self.plugins.get("tool", name)
        except PluginError as error:
            raise FaultsError(str(error)) from error


def reading_of(info: ValidationInfo) -> Reading:
    """Return what the recipe is validated with."""
    if not isinstance(info.context, Reading):
        raise TypeError("a recipe needs plugins; use Recipe.load or Recipe.from_dict")
    return info.context


@dataclass(frozen=True, slots=True)
class Use:
    """One plugin as a recipe uses it: the class, its validated config, and the path of the entry in the recipe.

    ``loss`` is a trainer's online loss. ``thoughts`` are the marks around a model's reasoning, None where the recipe sets none.
    """

    item: Registered
    config: Any
    where: Where
    loss: Use | None = None
    thoughts: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        """The plugin's name, as in ``use:``."""
        return self.item.name

    def dump(self) -> dict[str, Any]:
        """Return the entry with all defaults."""
        loss = {LOSS: self.loss.dump()} if self.loss else {}
        marks = {} if self.thoughts is None else {THOUGHTS: list(self.thoughts)}
        return {
            "use": self.name,
            **self.config.model_dump(mode="json", by_alias=True),
            **loss,
            **marks,
        }


@dataclass(frozen=True, slots=True)
class SourceUse:
    """A source and the label noise that the recipe adds to it."""

    use: Use
    noise: NoiseConfig | None = None

    def dump(self) -> dict[str, Any]:
        """Return the section with all defaults."""
        noise = {NOISE: self.noise.model_dump(mode="json")} if self.noise else {}
        return {**self.use.dump(), **noise}


class ThoughtsConfig(StageConfig):
    """``thoughts: ["<think>", "</think>"]``, a setting of a model of any backend."""

    thoughts: Marks = Field(
        description=BESIDE["backend"][2],
    )


@dataclass(frozen=True, slots=True)
class StageTool:
    """A tool of a stage: its class, its config, and its path in the recipe."""

    item: Registered
    config: Any
    where: Where

    def parts(self, base_dir: Path) -> list[Any]:
        """Return what a fingerprint has of the tool: settings, code, and the identity of the files that it reads."""
        settings = self.config.model_dump(mode="json", by_alias=True)
        identify = getattr(self.item.cls, "identity", None)
        files = [] if identify is None else [identify(self.config, ToolSite(base_dir))]
        return [self.item.name, settings, self.item.origin, self.item.code, *files]


def stage_tools(use: Use, plugins: Plugins) -> list[StageTool]:
    """Return the tools that the settings of a stage name."""
    found = []
    for path, tool in tool_uses(use.config):
        item = plugins.get("tool", tool.use)
        config = item.cls.Config.model_validate(dict(tool.settings))
        found.append(StageTool(item, config, (*use.where, *path)))
    return found


def model_needs(config: StageConfig) -> list[ModelNeed]:
    """Return the models that a config and its parts name, by the ``Needs`` marks on fields; an unset field needs none."""
    return list(_needs(config, ()))


def _needs(config: BaseModel, at: Where) -> Iterator[ModelNeed]:
    for name, info in type(config).model_fields.items():
        value = getattr(config, name)
        for mark in info.metadata:
            if isinstance(mark, Needs):
                field = ".".join(map(str, (*at, name)))
                for model in [value] if isinstance(value, str) else list(value or ()):
                    yield ModelNeed(model, mark.capability, mark.logprobs, field, mark.tools)
        for number, part in enumerate(value if isinstance(value, list | tuple) else (value,)):
            if isinstance(part, BaseModel):
                step = (name, number) if isinstance(value, list | tuple) else (name,)
                yield from _needs(part, (*at, *step))


def stage_needs(use: Use) -> list[ModelNeed]:
    """Return the models that the settings and the contract of a stage name."""
    contract: Contract = use.item.cls.contract(use.config)
    return list(dict.fromkeys((*model_needs(use.config), *contract.needs)))


def tool_needs(tools: Iterable[StageTool]) -> list[ModelNeed]:
    """Return the models that the settings of tools name."""
    return [need for tool in tools for need in model_needs(tool.config)]


def read_models(value: Any, info: ValidationInfo) -> dict[str, Use | str]:
    """Read the ``models`` section: models by name; for an alias, the name of the model that it leads to."""
    if not isinstance(value, dict):
        raise FaultsError(f"a mapping of names to models, not {kind_of(value)}")
    parts = Parts()
    models: dict[str, Use | str] = {}
    for name, entry in value.items():
        if isinstance(entry, str):
            models[name] = parts.read((name,), _target, name, value)
        else:
            models[name] = parts.read((name,), _model, entry, reading_of(info), ("models", name))
    parts.check()
    return models


def _target(name: str, models: Mapping[str, Any]) -> str:
    first = models[name]
    if first not in models:
        near = did_you_mean(first, [key for key in models if key != name])
        raise FaultsError(f"stands for {short(repr(first))}, which is no model here{near}")
    seen, target = {name}, first
    while isinstance(models.get(target), str) and target not in seen:
        seen.add(target)
        target = models[target]
    if target in seen:
        raise FaultsError("stands for itself in a circle; make one of them {use: NAME, ...}")
    return str(target)


def _model(entry: Any, reading: Reading, where: Where) -> Use:
    given, rest = _apart(entry, THOUGHTS)
    parts = Parts()
    marks = parts.read((), config_of, ThoughtsConfig, given) if given else None
    use: Use = parts.read((), read_use, "backend", rest, reading, where)
    parts.check()
    return replace(use, thoughts=marks.thoughts) if marks else use


def read_source(value: Any, reading: Reading, where: Where) -> SourceUse:
    """Read a source section; ``noise`` beside the source's own settings is a ratio or a mapping."""
    if value is None:
        raise FaultsError(NO_SOURCE)
    given, rest = _apart(value, NOISE)
    noise = given.get(NOISE)
    noise = {"ratio": noise} if isinstance(noise, int | float) else noise
    parts = Parts()
    config = parts.read((NOISE,), config_of, NoiseConfig, noise) if given else None
    use = parts.read((), read_use, "source", rest, reading, where)
    parts.check()
    return SourceUse(use, config)


def read_trainer(value: Any, reading: Reading, where: Where) -> Use:
    """Read a trainer; ``loss`` beside its own settings is the name of an online loss or ``{use: LOSS, ...}``."""
    given, rest = _apart(value, LOSS)
    loss = given.get(LOSS)
    loss = {"use": loss} if isinstance(loss, str) else loss
    parts = Parts()
    use: Use = parts.read((), read_use, "trainer", rest, reading, where)
    if loss is not None:
        loss = parts.read((LOSS,), read_use, "loss", loss, reading, (*where, LOSS))
    parts.check()
    return replace(use, loss=loss)


def read_stages(value: Any, reading: Reading, section: str, member: str) -> tuple[Use, ...]:
    """Read a list of stages, without those that have ``skip: true``; a stage of the section has the method ``member``."""
    if not isinstance(value, list):
        raise FaultsError(f"a list of stages, each {{use: NAME, ...}}, not {kind_of(value)}")
    parts = Parts()
    uses = [
        parts.read((index,), _stage, entry, reading, (section, index), member)
        for index, entry in enumerate(value)
    ]
    parts.check()
    return tuple(use for use in uses if use is not None)


def _stage(entry: Any, reading: Reading, where: Where, member: str) -> Use | None:
    given, rest = _apart(entry, SKIP)
    skip = given.get(SKIP, False)
    if not isinstance(skip, bool):
        raise FaultsError(f"true or false, not {short(repr(skip))}", (SKIP,))
    return None if skip else read_use("stage", rest, reading, where, member)


def _apart(value: Any, key: str) -> tuple[dict[str, Any], Any]:
    """Return the setting ``key``, where ``value`` has it, and ``value`` without it."""
    if not isinstance(value, dict) or key not in value:
        return {}, value
    return {key: value[key]}, {name: item for name, item in value.items() if name != key}


def _use_hint(entry: Mapping[str, Any], known: Sequence[str]) -> str | None:
    """Return the remedy for the usual ways to write a plugin's name in another form, else None."""
    for key, value in entry.items():
        joined = re.match(r"use\s?[:=]\s?(.*)", key)
        if joined and value is None:
            name = joined[1] or "NAME"
            return f"{short(repr(key))} is one word to YAML; a colon needs a blank behind it: {{use: {short(name)}, ...}}"
        if key in known and len(entry) == 1:
            return f"missing; write {{use: {key}, ...}}, with the settings beside it"
        if key in ("type", "name", "plugin", "kind") and value in known:
            return f"missing; it stands under {key!r}; write {{use: {value}, ...}}"
    return None


def read_use(
    kind: str, entry: Any, reading: Reading, where: Where, member: str | None = None
) -> Use:
    """Look up the plugin that ``entry`` names and validate its settings.

    Raises:
        FaultsError: where the entry is no mapping, names no plugin, has a setting that is wrong, or is a stage without ``member``.
    """
    if not isinstance(entry, dict):
        raise FaultsError(f"a mapping like {{use: NAME, ...}}, not {kind_of(entry)}")
    name = entry.get("use")
    if not isinstance(name, str):
        known = ", ".join(item.name for item in reading.plugins.of_kind(kind))
        if hint := _use_hint(entry, known.split(", ")):
            raise FaultsError(hint, ("use",))
        raise FaultsError(f"missing; name the {kind} to use: {known}", ("use",))
    try:
        item = reading.plugins.get(kind, name)
    except PluginError as error:
        raise FaultsError(str(error), ("use",)) from error
    if member is not None and not hasattr(item.cls, member):
        other = "tokens" if where[0] == "samples" else "samples"
        raise FaultsError(f"{name} belongs in the section {other!r}", ("use",))
    return Use(item, config_of(item.cls.Config, _apart(entry, "use")[1], reading), where)
