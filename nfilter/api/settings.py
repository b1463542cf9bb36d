"""``StageConfig``, the base class of the settings of every plugin: the only base class of the interface."""

from __future__ import annotations

from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class StageConfig(BaseModel):
    """The base class of every plugin's configuration: unknown keys are errors, values are frozen, numbers are finite.

    ``also_known`` maps names of settings in other tools to the field here (``{"learning_rate": "lr"}``), or to a sentence with
    the remedy; the error for an unknown key shows it.
    """

    also_known: ClassVar[Mapping[str, str]] = {}

    model_config = ConfigDict(
        extra="forbid", frozen=True, arbitrary_types_allowed=False, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic converts true to 1, but "rounds: yes" is a mistake.
        if isinstance(value, bool) and info.field_name is not None:
            kinds = _leaves(cls.model_fields[info.field_name].annotation)
            if kinds & {int, float} and not kinds & {bool, Any, object}:
                raise ValueError("a number is needed here")
        return value


def _leaves(annotation: Any) -> set[Any]:
    """The plain types in an annotation: int and NoneType for ``Annotated[int, ...] | None``."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _leaves(get_args(annotation)[0])
    if origin in {Union, UnionType}:
        return set().union(*(_leaves(part) for part in get_args(annotation)))
    if origin is Literal:
        return {type(value) for value in get_args(annotation)}
    return {annotation}
