"""The sections of a recipe: the settings of each, and how its value is read from YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field, PlainValidator, ValidationInfo, WithJsonSchema

from nfilter.api.errors import did_you_mean, short
from nfilter.api.settings import StageConfig
from nfilter.recipe.faults import ENCODE, EVALUATE, FaultsError, Parts, config_of, kind_of
from nfilter.recipe.uses import (
    NO_SOURCE,
    SourceUse,
    Use,
    read_models,
    read_source,
    read_stages,
    read_trainer,
    read_use,
    reading_of,
)
from nfilter.recipe.yaml_lines import Where

Arm = Literal["vanilla", "raw", "cleaned", "truth"]
ARMS: tuple[Arm, ...] = get_args(Arm)
ADOPT = "adopt"
PART = "part"
EXECUTOR = "executor"


def _part(kind: str) -> Any:
    """Mark a value that names a plugin; ``nfilter.recipe.schema`` puts the definition of the kind in its place."""
    return Annotated[Any, WithJsonSchema({PART: kind})]


def _source(where: Where) -> PlainValidator:
    return PlainValidator(
        lambda value, info: read_source(value, reading_of(info), where),
        json_schema_input_type=_part("source"),
    )


def _stages(section: str, member: str, kind: str) -> PlainValidator:
    return PlainValidator(
        lambda value, info: read_stages(value, reading_of(info), section, member),
        json_schema_input_type=list[_part(kind)],  # type: ignore[misc]
    )


class BudgetConfig(StageConfig):
    """The ``budget`` section."""

    usd: float = Field(
        gt=0,
        allow_inf_nan=False,
        description="US dollars that all calls of a run, with all its seeds, may cost together.",
    )


class EncodeConfig(StageConfig):
    """The ``encode`` section: how conversations become tokens."""

    also_known: ClassVar[Mapping[str, str]] = ENCODE

    model: str = Field(
        default="student", description="The model whose tokenizer and chat template are used."
    )
    max_length: int = Field(
        default=2048, ge=2, description="Tokens per sample, at least 2; what is longer is cut."
    )
    turns: Literal["all", "last"] = Field(
        default="all",
        description="The assistant turns that count as responses: all, or only the last of each conversation.",
    )


class EvaluateConfig(StageConfig):
    """The ``evaluate`` section: the test of every arm."""

    also_known: ClassVar[Mapping[str, str]] = EVALUATE
    when_missing: ClassVar[Mapping[str, str]] = {"source": NO_SOURCE}

    metric: Literal["accuracy"] = Field(
        default="accuracy", description="The figure: the share of right answers."
    )
    max_tokens: int = Field(default=256, ge=1, description="Tokens per answer, at most.")
    prompt: str | None = Field(
        default=None,
        description="A template, folder/name, around each question; null asks the question as it is.",
    )
    limit: int | None = Field(
        default=None, ge=1, description="Number of test rows, from the first on; null takes all."
    )
    source: Annotated[SourceUse, _source(("evaluate", "source"))] = Field(
        description="The test set: a source like that of the data."
    )


class AdoptConfig(StageConfig):
    """``train: {use: adopt, from: STAGE}``: the cleaned arm takes the model that a token stage published."""

    stage: str = Field(
        alias="from", description="The name of the token stage whose model the cleaned arm takes."
    )
    trainer: Annotated[
        Use | None,
        PlainValidator(
            lambda value, info: read_trainer(value, reading_of(info), ("train", "with")),
            json_schema_input_type=_part("trainer"),
        ),
    ] = Field(
        default=None,
        alias="with",
        description="The trainer of stages that train, and of the other arms.",
    )


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value.strip(" .") or any(c in value for c in "/\\\0"):
        quotes = " (YAML reads it so; a word in quotes is text)" * isinstance(value, bool)
        raise FaultsError(
            f"a name is a word that can name a folder, not {short(repr(value))}{quotes}"
        )
    return value


def _extends(value: Any) -> None:
    # ``extended`` puts the sections of the other recipe in its place before.
    raise FaultsError(
        f"only a recipe's file names what it extends; write it there, not {short(repr(value))} here"
    )


def _at_least(least: int) -> BeforeValidator:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise FaultsError(f"a whole number of at least {least}, not {short(repr(value))}")
        return value

    return BeforeValidator(check)


def _arms(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise FaultsError(f"a list of {', '.join(ARMS)}, not {kind_of(value)}")
    parts = Parts()
    for index, arm in enumerate(value):
        parts.read((index,), _arm, arm)
    parts.check()
    return tuple(dict.fromkeys(value))


def _arm(arm: Any) -> None:
    if arm not in ARMS:
        raise FaultsError(f"unknown arm {short(repr(arm))}{did_you_mean(str(arm), ARMS)}")


def _train(value: Any, info: ValidationInfo) -> Use | AdoptConfig | None:
    if isinstance(value, dict) and value.get("use") == ADOPT:
        settings = {key: item for key, item in value.items() if key != "use"}
        return config_of(AdoptConfig, settings, reading_of(info))
    return None if value is None else read_trainer(value, reading_of(info), ("train",))


def _executor(value: Any, info: ValidationInfo) -> Use | None:
    return None if value is None else read_use(EXECUTOR, value, reading_of(info), (EXECUTOR,))


Name = Annotated[str, BeforeValidator(_name)]
Extends = Annotated[str | None, BeforeValidator(_extends)]
Seed = Annotated[int, _at_least(0)]
ChunkSize = Annotated[int, _at_least(1)]
Arms = Annotated[tuple[Arm, ...], BeforeValidator(_arms)]
DataSource = Annotated[SourceUse, _source(("source",))]
SampleStages = Annotated[tuple[Use, ...], _stages("samples", "process", "sample_stage")]
TokenStages = Annotated[tuple[Use, ...], _stages("tokens", "process_tokens", "token_stage")]
ExecutorUse = Annotated[
    Use | None, PlainValidator(_executor, json_schema_input_type=_part(EXECUTOR) | None)
]
Models = Annotated[
    dict[str, Use | str],
    PlainValidator(read_models, json_schema_input_type=dict[str, _part("model")]),  # type: ignore[misc]
]
Training = Annotated[
    Use | AdoptConfig | None, PlainValidator(_train, json_schema_input_type=_part("train"))
]
