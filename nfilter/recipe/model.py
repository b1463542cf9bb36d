"""A recipe: YAML in, a validated ``Recipe`` out, with all faults at once and the line of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from pydantic import Field, ValidationError

from nfilter.answers import AnswerConfig
from nfilter.answers.thoughts import Marks, Thoughts
from nfilter.api.capabilities import Needs
from nfilter.api.errors import PluginError, RecipeError, also_known, did_you_mean, short
from nfilter.api.stages import ModelNeed, StageConfig
from nfilter.noise.labels import NoiseConfig
from nfilter.recipe.words import (
    ENCODE,
    EVALUATE,
    NEEDED,
    SECTIONS_ELSEWHERE,
    field_for,
    kind_of,
    near_literal,
)
from nfilter.recipe.yaml_lines import Located, Where, dotted, override, read
from nfilter.registry.loading import Plugins, Registered

Arm = Literal["vanilla", "raw", "cleaned", "truth"]
ARMS: tuple[Arm, ...] = get_args(Arm)
SECTIONS = (
    "name", "seed", "answer", "chunk", "budget", "models", "source", "samples", "arms", "encode", "tokens", "train",
    "evaluate", "lock",
)  # fmt: skip
ADOPT = "adopt"
WITH = "with"
LOSS = "loss"
THOUGHTS = "thoughts"


class BudgetConfig(StageConfig):
    """The ``budget`` section: dollars that all calls of a run may cost together, those of every seed included."""

    usd: float = Field(gt=0, allow_inf_nan=False)


class ThoughtsConfig(StageConfig):
    """``thoughts: ["<think>", "</think>"]`` on a model of any backend: the marks around what it thinks; ``[]`` for none."""

    thoughts: Marks


class EncodeConfig(StageConfig):
    """The ``encode`` section: whose tokenizer, how long, and which turns are responses."""

    also_known: ClassVar[Mapping[str, str]] = ENCODE

    model: str = "student"
    max_length: int = Field(default=2048, ge=2)
    turns: Literal["all", "last"] = "all"


class AdoptConfig(StageConfig):
    """``train: {use: adopt, from: STAGE}``: the cleaned arm takes the model that a token stage published.

    ``with: {use: hf.lora, ...}`` beside it is the trainer that stages train with, and the other arms.
    """

    stage: str = Field(alias="from")


class EvaluateConfig(StageConfig):
    """The ``evaluate`` section without its source: how each arm is examined."""

    also_known: ClassVar[Mapping[str, str]] = EVALUATE

    metric: Literal["accuracy"] = "accuracy"
    max_tokens: int = Field(default=256, ge=1)
    prompt: str | None = None
    limit: int | None = Field(default=None, ge=1)


@dataclass(frozen=True, slots=True)
class Use:
    """One plugin as a recipe uses it: which, with what config, and where that stands.

    ``loss`` is a trainer's online loss; ``thoughts`` are the marks of a model's thoughts where the recipe sets them.
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
        """The entry as it would be written out in full."""
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
    """A source and what the recipe says beside its config."""

    use: Use
    noise: NoiseConfig | None = None

    def dump(self) -> dict[str, Any]:
        """The section as it would be written out in full."""
        noise = {"noise": self.noise.model_dump(mode="json")} if self.noise else {}
        return {**self.use.dump(), **noise}


@dataclass(frozen=True)
class Recipe:
    """A recipe with every name resolved and every config validated."""

    name: str
    seed: int
    answer: AnswerConfig
    chunk: int
    budget: BudgetConfig | None
    models: Mapping[str, Use]
    aliases: Mapping[str, str]
    source: SourceUse
    samples: tuple[Use, ...]
    arms: tuple[Arm, ...]
    encode: EncodeConfig
    tokens: tuple[Use, ...]
    train: Use | None
    adopt: AdoptConfig | None
    evaluate: EvaluateConfig | None
    test: SourceUse | None
    located: Located = field(repr=False)
    # What the one who runs it allows, and the recipe itself cannot.
    allow_hosts: frozenset[str] = frozenset()

    @property
    def base_dir(self) -> Path:
        """Where relative paths start: the recipe's folder; of a locked recipe, the folder it was locked in."""
        lock = self.located.value.get("lock")
        locked = lock.get("base_dir") if isinstance(lock, dict) else None
        return Path(locked) if isinstance(locked, str) else self.located.file.resolve().parent

    @property
    def encodes(self) -> bool:
        """Whether the cleaned samples become tokens: for the arm ``cleaned``, or for token stages alone."""
        return bool(self.tokens) or "cleaned" in self.arms

    def model(self, name: str) -> Use | None:
        """The model of that name, through aliases; None where there is none."""
        return self.models.get(self.aliases.get(name, name))

    def thoughts(self, name: str) -> Thoughts:
        """How the thoughts of the model of that name are marked."""
        use = self.model(name)
        return Thoughts(None if use is None else use.thoughts)

    def dump(self) -> dict[str, Any]:
        """The recipe as resolved, defaults and all, in the order of its sections."""
        out: dict[str, Any] = {
            "name": self.name,
            "seed": self.seed,
            "answer": self.answer.model_dump(mode="json", exclude_defaults=False),
            "chunk": self.chunk,
            "models": {
                **{name: use.dump() for name, use in self.models.items()},
                **dict(self.aliases),
            },
            "source": self.source.dump(),
            "samples": [use.dump() for use in self.samples],
            "arms": list(self.arms),
            "encode": self.encode.model_dump(mode="json"),
            "tokens": [use.dump() for use in self.tokens],
        }
        if self.budget is not None:
            out["budget"] = self.budget.model_dump(mode="json")
        if self.train is not None:
            out["train"] = self.train.dump()
        if self.adopt is not None:
            own = {WITH: self.train.dump()} if self.train is not None else {}
            out["train"] = {"use": ADOPT, "from": self.adopt.stage, **own}
        if self.evaluate is not None and self.test is not None:
            out["evaluate"] = {
                **self.evaluate.model_dump(mode="json"),
                "source": self.test.dump(),
            }
        return out


def model_needs(config: StageConfig) -> list[ModelNeed]:
    """The models that a config names, by the ``Needs`` marks on its fields; an unset field needs none."""
    needs = []
    for name, info in type(config).model_fields.items():
        for mark in info.metadata:
            if isinstance(mark, Needs):
                value = getattr(config, name)
                values = [value] if isinstance(value, str) else list(value or ())
                needs += [
                    ModelNeed(model, mark.capability, mark.logprobs, name) for model in values
                ]
    return needs


def load(file: Path, plugins: Plugins, assignments: Sequence[str] = ()) -> Recipe:
    """Read and validate a recipe; ``assignments`` are ``a.b=c`` overrides.

    Raises:
        RecipeError: with every fault that was found, each with its line and what to write instead.
    """
    located = read(file)
    if assignments:
        override(located, list(assignments))
    return _Reader(located, plugins).recipe()


class _Reader:
    """Walks the values of one recipe and collects faults, so that all are reported at once."""

    def __init__(self, located: Located, plugins: Plugins) -> None:
        self.located = located
        self.plugins = plugins
        self.faults: list[str] = []

    def fault(self, where: Where, text: str) -> None:
        self.faults.append(self.located.fault(where, text))

    def recipe(self) -> Recipe:
        top = self.located.value
        if not isinstance(top, dict):
            raise RecipeError(
                self.located.fault((), f"a recipe is a mapping of sections, not {kind_of(top)}")
            )
        for key in top:
            if key not in SECTIONS:
                self.fault((key,), f"unknown section{self._section_for(key)}")
        models, aliases = self._models(top.get("models", {}))
        source = self._source(top.get("source"), ("source",))
        evaluate, test = self._evaluate(top.get("evaluate"))
        train, adopt = self._train(top.get("train"))
        recipe: dict[str, Any] = {
            "name": self._name(top.get("name")),
            "seed": self._number(top.get("seed", 0), ("seed",), 0),
            "answer": self._answer(top.get("answer", "exact")),
            "chunk": self._number(top.get("chunk", 256), ("chunk",), 1),
            "budget": self._config(BudgetConfig, top["budget"], ("budget",))
            if "budget" in top
            else None,
            "models": models,
            "aliases": aliases,
            "source": source,
            "samples": self._stages(top.get("samples", []), "samples", "process"),
            "arms": self._arms(
                top.get("arms"), has_train="train" in top, has_test="evaluate" in top
            ),
            "encode": self._config(EncodeConfig, top.get("encode", {}), ("encode",)),
            "tokens": self._stages(top.get("tokens", []), "tokens", "process_tokens"),
            "train": train,
            "adopt": adopt,
            "evaluate": evaluate,
            "test": test,
            "located": self.located,
        }
        if self.faults:
            raise RecipeError(self.faults)
        return Recipe(**recipe)

    def _section_for(self, key: str) -> str:
        """Where that belongs which other tools have at the top; else the nearest section."""
        known = also_known(SECTIONS_ELSEWHERE, key)
        if known is not None:
            return f"; write {known}"
        for kind, section in (("trainer", "train"), ("backend", "models: {NAME: ...}")):
            for item in self.plugins.of_kind(kind):
                config = item.cls.Config
                name = key if key in config.model_fields else also_known(config.also_known, key)
                if name in config.model_fields:
                    return f"; {item.name} has it as {name!r}, under {section}"
        near = did_you_mean(key, SECTIONS)
        return near or f"; known: {', '.join(SECTIONS)}"

    def _name(self, value: Any) -> str:
        if value is None:
            value = self.located.file.name.split(".")[0] or "recipe"
        if not isinstance(value, str) or not value.strip(" .") or any(c in value for c in "/\\\0"):
            self.fault(
                ("name",), f"a name is a word that can name a folder, not {short(repr(value))}"
            )
            return "recipe"
        return value

    def _number(self, value: Any, where: Where, least: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            self.fault(where, f"a whole number of at least {least}, not {short(repr(value))}")
            return least
        return value

    def _answer(self, value: Any) -> AnswerConfig | None:
        if isinstance(value, str):
            value = {"kind": value}
        config: AnswerConfig | None = self._config(AnswerConfig, value, ("answer",))
        return config

    def _arms(self, value: Any, *, has_train: bool, has_test: bool) -> tuple[Arm, ...]:
        if value is None:
            return ("cleaned",) if has_train else ("vanilla",) if has_test else ()
        if not isinstance(value, list):
            self.fault(("arms",), f"a list of {', '.join(ARMS)}, not {kind_of(value)}")
            return ()
        for index, arm in enumerate(value):
            if arm not in ARMS:
                self.fault(
                    ("arms", index), f"unknown arm {short(repr(arm))}{did_you_mean(str(arm), ARMS)}"
                )
        return tuple(dict.fromkeys(arm for arm in value if arm in ARMS))

    def _models(self, value: Any) -> tuple[dict[str, Use], dict[str, str]]:
        models: dict[str, Use] = {}
        aliases: dict[str, str] = {}
        if not isinstance(value, dict):
            self.fault(("models",), f"a mapping of names to models, not {kind_of(value)}")
            return models, aliases
        for name, entry in value.items():
            where: Where = ("models", name)
            if isinstance(entry, str):
                aliases[name] = entry
                continue
            use = self._model(entry, where)
            if use is not None:
                models[name] = use
        named = dict(aliases)
        for name, first in named.items():
            seen, target = {name}, first
            while target in named and target not in seen:
                seen.add(target)
                target = named[target]
            if first not in value:
                near = did_you_mean(first, [key for key in value if key != name])
                self.fault(
                    ("models", name),
                    f"stands for {short(repr(first))}, which is no model here{near}",
                )
            elif target in seen:
                self.fault(
                    ("models", name),
                    "stands for itself in a circle; make one of them {use: NAME, ...}",
                )
            aliases[name] = target
        return models, aliases

    def _model(self, entry: Any, where: Where) -> Use | None:
        marks = None
        if isinstance(entry, dict) and THOUGHTS in entry:
            given = {THOUGHTS: entry[THOUGHTS]}
            marks = self._config(ThoughtsConfig, given, where)
            entry = {key: value for key, value in entry.items() if key != THOUGHTS}
        use = self._use("backend", entry, where)
        if use is None or marks is None:
            return use
        return replace(use, thoughts=marks.thoughts)

    def _source(self, value: Any, where: Where) -> SourceUse | None:
        if value is None:
            self.fault(where, "missing; write for example source: {use: jsonl, path: data.jsonl}")
            return None
        noise = None
        if isinstance(value, dict) and "noise" in value:
            raw = value["noise"]
            raw = {"ratio": raw} if isinstance(raw, int | float) else raw
            noise = self._config(NoiseConfig, raw, (*where, "noise"))
            value = {key: item for key, item in value.items() if key != "noise"}
        use = self._use("source", value, where)
        return SourceUse(use, noise) if use is not None else None

    def _evaluate(self, value: Any) -> tuple[EvaluateConfig | None, SourceUse | None]:
        if value is None:
            return None, None
        where: Where = ("evaluate",)
        if not isinstance(value, dict):
            self.fault(where, f"a mapping with metric and source, not {kind_of(value)}")
            return None, None
        rest = {key: item for key, item in value.items() if key != "source"}
        config = self._config(EvaluateConfig, rest, where)
        return config, self._source(value.get("source"), (*where, "source"))

    def _train(self, value: Any) -> tuple[Use | None, AdoptConfig | None]:
        if value is None:
            return None, None
        if isinstance(value, dict) and value.get("use") == ADOPT:
            rest = {key: item for key, item in value.items() if key not in ("use", WITH)}
            own = self._trainer(value[WITH], ("train", WITH)) if WITH in value else None
            return own, self._config(AdoptConfig, rest, ("train",))
        return self._trainer(value, ("train",)), None

    def _trainer(self, value: Any, where: Where) -> Use | None:
        loss = None
        if isinstance(value, dict):
            loss = value.get(LOSS)
            loss = {"use": loss} if isinstance(loss, str) else loss
            value = {key: item for key, item in value.items() if key != LOSS}
        use = self._use("trainer", value, where)
        online = None if loss is None else self._use("loss", loss, (*where, LOSS))
        return replace(use, loss=online) if use is not None else None

    def _stages(self, value: Any, section: str, member: str) -> tuple[Use, ...]:
        if not isinstance(value, list):
            self.fault(
                (section,), f"a list of stages, each {{use: NAME, ...}}, not {kind_of(value)}"
            )
            return ()
        uses = []
        for index, entry in enumerate(value):
            where: Where = (section, index)
            if isinstance(entry, dict) and "skip" in entry:
                if not isinstance(entry["skip"], bool):
                    self.fault((*where, "skip"), f"true or false, not {short(repr(entry['skip']))}")
                elif entry["skip"]:
                    continue
                entry = {key: item for key, item in entry.items() if key != "skip"}  # noqa: PLW2901
            if not self._in_its_section(entry, member, where):
                continue
            use = self._use("stage", entry, where)
            if use is not None:
                uses.append(use)
        return tuple(uses)

    def _in_its_section(self, entry: Any, member: str, where: Where) -> bool:
        name = entry.get("use") if isinstance(entry, dict) else None
        item = self._found("stage", name) if isinstance(name, str) else None
        if item is None or hasattr(item.cls, member):
            return True
        other = "tokens" if where[0] == "samples" else "samples"
        self.fault((*where, "use"), f"{name} belongs in the section {other!r}")
        return False

    def _use(self, kind: str, entry: Any, where: Where) -> Use | None:
        if not isinstance(entry, dict):
            self.fault(where, f"a mapping like {{use: NAME, ...}}, not {kind_of(entry)}")
            return None
        name = entry.get("use")
        if not isinstance(name, str):
            known = ", ".join(item.name for item in self.plugins.of_kind(kind))
            self.fault((*where, "use"), f"missing; name the {kind} to use: {known}")
            return None
        item = self._found(kind, name, (*where, "use"))
        if item is None:
            return None
        rest = {key: value for key, value in entry.items() if key != "use"}
        config = self._config(item.cls.Config, rest, where)
        return None if config is None else Use(item, config, where)

    def _found(self, kind: str, name: str, where: Where | None = None) -> Registered | None:
        """What is registered under that name; else None, and a fault where ``where`` is given."""
        try:
            return self.plugins.get(kind, name)
        except PluginError as error:
            if where is not None:
                self.fault(where, str(error))
            return None

    def _config(self, model: Any, value: Any, where: Where) -> Any:
        if not isinstance(value, dict):
            self.fault(where, f"a mapping of settings, not {kind_of(value)}")
            return None
        try:
            return model.model_validate(value)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                self._config_fault(model, dict(detail), where)
            return None

    def _config_fault(self, model: Any, detail: dict[str, Any], where: Where) -> None:
        path = tuple(part for part in detail["loc"] if isinstance(part, str | int))
        fields = [info.alias or name for name, info in model.model_fields.items()]
        if detail["type"] == "extra_forbidden":
            near = ""
            if len(path) == 1:  # the fields of a nested model are not known here
                near = field_for(model, str(path[-1]), fields)
            self.fault((*where, *path), f"unknown key {short(repr(path[-1]))}{near}")
        elif detail["type"] == "missing":
            self.fault(
                (*where, *path), f"missing; {model.__name__.removesuffix('Config')} needs it"
            )
        else:
            given = detail.get("input")
            shown = (
                f", not {short(repr(given))}"
                if isinstance(given, str | int | float | bool | None)
                else ""
            )
            near = near_literal(detail, given)
            known = self._known_part(where, path)
            needed = NEEDED.get(detail["type"], detail["msg"].removeprefix("Value error, "))
            self.fault(known, f"{needed}{shown}{near}")

    def _known_part(self, where: Where, path: Where) -> Where:
        # Unions add names of their own to pydantic's path; only what stands in the file can be pointed at.
        here: Where = where
        for part in path:
            if (*here, part) not in self.located.lines and (
                *here,
                part,
            ) not in self.located.overridden:
                break
            here = (*here, part)
        return here if here != where or not path else (*where, path[0])


__all__ = [
    "ARMS",
    "EncodeConfig",
    "EvaluateConfig",
    "Recipe",
    "SourceUse",
    "Use",
    "dotted",
    "load",
    "model_needs",
]
