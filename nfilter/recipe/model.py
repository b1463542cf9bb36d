"""A recipe as one pydantic model: read from YAML, every plugin looked up, every fault reported with its line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from nfilter.answers import AnswerConfig
from nfilter.answers.thoughts import Thoughts
from nfilter.api.errors import RecipeError, also_known, did_you_mean
from nfilter.api.tools import allowed
from nfilter.recipe.extends import extended
from nfilter.recipe.faults import SECTIONS_ELSEWHERE, FaultsError, faults_of, kind_of
from nfilter.recipe.file_hints import FileHints
from nfilter.recipe.sections import (
    ADOPT,
    EXECUTOR,
    AdoptConfig,
    Arms,
    BudgetConfig,
    ChunkSize,
    DataSource,
    EncodeConfig,
    EvaluateConfig,
    ExecutorUse,
    Extends,
    Models,
    Name,
    SampleStages,
    Seed,
    TokenStages,
    Training,
)
from nfilter.recipe.uses import NO_SOURCE, Reading, SourceUse, Use, reading_of
from nfilter.recipe.yaml_lines import YamlDocument, assign, override, plain_values, read
from nfilter.registry.given_files import given_files
from nfilter.registry.loading import Plugins
from nfilter.registry.loading import load as load_plugins


class Recipe(BaseModel):
    """A recipe: every plugin looked up, every setting validated. It is frozen; ``override`` returns another one."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    when_missing: ClassVar[Mapping[str, str]] = {"source": NO_SOURCE}

    name: Name = Field(
        default="recipe",
        description="The run's name, and that of its folder under runs/; the name of the recipe's file by default.",
    )
    extends: Extends = Field(
        default=None,
        description="A recipe that this one changes: the name of one that ships, or a path. Mappings merge, lists replace.",
    )
    seed: Seed = Field(
        default=0,
        ge=0,
        description="Seed of everything random: noise, sampling, adapter initialisation.",
    )
    answer: AnswerConfig = Field(
        default_factory=AnswerConfig,
        description="How answers are found in texts and compared: a kind, or a mapping with its settings.",
    )
    chunk: ChunkSize = Field(
        default=256, ge=1, description="Samples per chunk: what a stage publishes at a time."
    )
    budget: BudgetConfig | None = Field(
        default=None, description="What the run may cost; null for no limit."
    )
    executor: ExecutorUse = Field(
        default=None,
        description="What starts the processes of the run: {use: EXECUTOR, ...}; null for this process alone.",
    )
    entries: Models = Field(
        default={},
        alias="models",
        description="The models by name: {use: BACKEND, ...}, or the name of another model.",
    )
    source: DataSource = Field(description="The rows to clean.")
    samples: SampleStages = Field(default=(), description="The stages that see samples, in order.")
    arms: Arms = Field(
        default=(),
        description="What is trained and evaluated side by side; by default cleaned with train:, else vanilla with evaluate:.",
    )
    encode: EncodeConfig = Field(
        default_factory=EncodeConfig, description="How conversations become tokens."
    )
    tokens: TokenStages = Field(default=(), description="The stages that see tokens, in order.")
    training: Training = Field(
        default=None, alias="train", description="The trainer, or the stage whose model is adopted."
    )
    evaluate: EvaluateConfig | None = Field(
        default=None, description="The test set, and how every arm is tested on it."
    )
    lock: Any = Field(
        default=None, description="Hashes and versions that a run wrote into recipe.lock.yaml."
    )
    _reading: Reading = PrivateAttr()

    @model_validator(mode="before")
    @classmethod
    def _with_defaults(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, dict):
            raise FaultsError(f"a recipe is a mapping of sections, not {kind_of(value)}")
        given = {
            key: item
            for key, item in value.items()
            if item is not None or key not in ("name", "arms")
        }
        arms = ["cleaned"] if "train" in value else ["vanilla"] if "evaluate" in value else []
        name = reading_of(info).document.file.name.split(".")[0] or "recipe"
        return {"name": name, "arms": arms, **given}

    def model_post_init(self, context: Any) -> None:
        """Keep what the recipe was read from."""
        self._reading = context

    @classmethod
    def load(
        cls,
        file: str | Path,
        plugins: Plugins | Iterable[str | Path] | None = None,
        assignments: Sequence[str] = (),
        allow_hosts: frozenset[str] = frozenset(),
        allow: Iterable[str] = (),
    ) -> Self:
        """Read and validate a recipe file.

        Args:
            file: A YAML file.
            plugins: Python files with plugins, in addition to the installed ones.
            assignments: Overrides ``a.b=c``; list items by number (``samples.0.k=5``), values in YAML.
            allow_hosts: Hosts that the recipe's models may send data to, and its sources read from.
            allow: What no recipe can allow: ``programs``, which tools may run in a sandbox.

        Raises:
            RecipeError: with every fault that was found, each with its line and what to write instead.
            PluginError: if a file cannot be used as a plugin.
        """
        found = plugins_with(plugins, Path(file))
        document = extended(read(Path(file)), found)
        if assignments:
            override(document, list(assignments))
        return cls._read(Reading(document, found, allow_hosts, allowed(allow)))

    @classmethod
    def from_dict(
        cls,
        sections: Mapping[str, Any],
        plugins: Plugins | Iterable[str | Path] | None = None,
        *,
        file: str | Path = "recipe",
        allow_hosts: frozenset[str] = frozenset(),
        allow: Iterable[str] = (),
    ) -> Self:
        """Validate a recipe that is given as sections of plain values.

        Args:
            sections: The sections of a recipe.
            plugins: Python files with plugins, in addition to the installed ones.
            file: The file that messages name; relative paths start in its folder, by default the current one.
            allow_hosts: As for ``load``.
            allow: As for ``load``.

        Raises:
            RecipeError: with every fault that was found, and what to write instead.
            PluginError: if a file cannot be used as a plugin.
        """
        found = plugins_with(plugins)
        document = extended(YamlDocument(Path(file), plain_values(sections)), found)
        return cls._read(Reading(document, found, allow_hosts, allowed(allow)))

    def with_plugins(self, files: Iterable[str | Path]) -> Self:
        """Return the recipe read again with plugins from ``files`` beside those that it has.

        Raises:
            RecipeError: where a name of the recipe is then registered twice.
            PluginError: if a file cannot be used as a plugin.
        """
        plugins = self.plugins.with_files(given_files(files))
        return self._read(replace(self._reading, plugins=plugins))

    def override(self, path: str, value: Any) -> Self:
        """Return the recipe with another value at ``path``: ``recipe.override("train.lr", 1e-4)``.

        Raises:
            RecipeError: where nothing stands at ``path`` that could take the value, and where the recipe is then wrong.
        """
        document = deepcopy(self.document)
        assign(document, path, value)
        return self._read(replace(self._reading, document=document))

    @classmethod
    def _read(cls, reading: Reading) -> Self:
        document = reading.document
        try:
            return cls.model_validate(document.value, context=reading)
        except ValidationError as error:
            found = faults_of(
                cls, error, document.value, partial(_unknown_section, reading.plugins)
            )
            ordered = sorted(found, key=lambda fault: document.order(fault[0]))
            raise RecipeError(document.fault(*fault) for fault in ordered) from None

    @property
    def allow_hosts(self) -> frozenset[str]:
        """The hosts that the user allows data to be sent to."""
        return self._reading.allow_hosts

    @property
    def allow(self) -> frozenset[str]:
        """What the user allows beside hosts, such as programs; no recipe can."""
        return self._reading.allow

    @property
    def plugins(self) -> Plugins:
        """The plugins that the recipe was read with."""
        return self._reading.plugins

    @property
    def document(self) -> YamlDocument:
        """The values as written, with the line of each."""
        return self._reading.document

    @cached_property
    def models(self) -> Mapping[str, Use]:
        """The models by name, without aliases."""
        return {name: use for name, use in self.entries.items() if isinstance(use, Use)}

    @cached_property
    def aliases(self) -> Mapping[str, str]:
        """Other names of models, each with the name of the model that it leads to."""
        return {name: to for name, to in self.entries.items() if isinstance(to, str)}

    @property
    def adopt(self) -> AdoptConfig | None:
        """The stage whose model the cleaned arm takes, where it takes one."""
        return self.training if isinstance(self.training, AdoptConfig) else None

    @property
    def train(self) -> Use | None:
        """The trainer of the arms and of stages that train."""
        return self.training.trainer if isinstance(self.training, AdoptConfig) else self.training

    @property
    def test(self) -> SourceUse | None:
        """The source of the test set."""
        return self.evaluate.source if self.evaluate else None

    @property
    def base_dir(self) -> Path:
        """The folder where relative paths start: the recipe's; of a locked recipe, the one it was locked in."""
        locked = self.lock.get("base_dir") if isinstance(self.lock, dict) else None
        return Path(locked) if isinstance(locked, str) else self.document.file.resolve().parent

    @property
    def encodes(self) -> bool:
        """Whether the cleaned samples become tokens: for the arm ``cleaned``, or for token stages."""
        return bool(self.tokens) or "cleaned" in self.arms

    def model(self, name: str) -> Use | None:
        """Return the model of that name, through aliases; None where there is none."""
        return self.models.get(self.aliases.get(name, name))

    def thoughts(self, name: str) -> Thoughts:
        """Return how the reasoning of the model of that name is marked."""
        use = self.model(name)
        return Thoughts(None if use is None else use.thoughts)

    def dump(self) -> dict[str, Any]:
        """Return the recipe as resolved, with all defaults, in the order of its sections."""
        out: dict[str, Any] = {
            "name": self.name,
            "seed": self.seed,
            "answer": self.answer.model_dump(mode="json"),
            "chunk": self.chunk,
            "models": {**{name: use.dump() for name, use in self.models.items()}, **self.aliases},
            "source": self.source.dump(),
            "samples": [use.dump() for use in self.samples],
            "arms": list(self.arms),
            "encode": self.encode.model_dump(mode="json"),
            "tokens": [use.dump() for use in self.tokens],
        }
        if self.budget is not None:
            out["budget"] = self.budget.model_dump(mode="json")
        if self.executor is not None:
            out[EXECUTOR] = self.executor.dump()
        if self.train is not None:
            out["train"] = self.train.dump()
        if self.adopt is not None:
            own = {"with": self.train.dump()} if self.train is not None else {}
            out["train"] = {"use": ADOPT, "from": self.adopt.stage, **own}
        if self.evaluate is not None:
            settings = self.evaluate.model_dump(mode="json", exclude={"source"})
            out["evaluate"] = {**settings, "source": self.evaluate.source.dump()}
        return out


SECTIONS = tuple(info.alias or name for name, info in Recipe.model_fields.items())


def _unknown_section(plugins: Plugins, key: str) -> str:
    """The fault of a section that does not exist: where other tools' names belong, else the nearest section."""
    known = also_known(SECTIONS_ELSEWHERE, key)
    if known is not None:
        trainers = [item.name for item in plugins.of_kind("trainer")]
        return f"unknown section; write {known.replace('TRAINER', next(iter(trainers), 'TRAINER'))}"
    for kind, section in (("trainer", "train"), ("backend", "models: {NAME: ...}")):
        for item in plugins.of_kind(kind):
            config = item.cls.Config
            name = key if key in config.model_fields else also_known(config.also_known, key)
            if name in config.model_fields:
                return f"unknown section; {item.name} has it as {name!r}, under {section}"
    near = did_you_mean(key, SECTIONS) or f"; known: {', '.join(SECTIONS)}"
    return f"unknown section{near}"


def plugins_with(
    given: Plugins | Iterable[str | Path] | None, recipe: Path | None = None
) -> Plugins:
    """Return ``given``, or the installed plugins and those in the files ``given``; ``recipe`` is the file of the recipe.

    Raises:
        PluginError: if a file cannot be used as a plugin.
    """
    if isinstance(given, Plugins):
        return given
    if isinstance(given, str | Path):
        given = [given]
    files = given_files(given or ())
    return load_plugins(files=files, hints=FileHints(recipe, files=files))


load = Recipe.load
