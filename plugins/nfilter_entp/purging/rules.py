"""All rules by name: their settings, and the functions of those that judge each row alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pydantic import ConfigDict, Field, model_validator

from nfilter import StageConfig, did_you_mean
from nfilter_entp.purging.duplicates import Exact, Near, Same
from nfilter_entp.purging.perplexity import Perplexity
from nfilter_entp.purging.rules_answer import NoAnswer, no_answer
from nfilter_entp.purging.rules_form import (
    CharactersRule,
    Empty,
    Length,
    Script,
    characters,
    empty,
    length,
    script,
)
from nfilter_entp.purging.rules_request import Media, MissingInput, media, missing_input
from nfilter_entp.purging.rules_truncated import Truncated, truncated
from nfilter_entp.purging.rules_words import Copied, Repeats, Template, copied, repeats, template
from nfilter_entp.purging.texts import Text

ROW_RULES: dict[str, Callable[[Text, Any], str | None]] = {
    "empty": empty,
    "no_answer": no_answer,
    "missing_input": missing_input,
    "media": media,
    "length": length,
    "characters": characters,
    "script": script,
    "repeats": repeats,
    "template": template,
    "copied": copied,
    "truncated": truncated,
}
"""Functions that return the reason a row breaks the rule, or None; each takes time linear in the text."""

DEFAULT = ("exact_duplicates", "near_duplicates", *ROW_RULES)
"""The rules that run if a recipe names none."""


def _or_names(schema: dict[str, Any]) -> None:
    """Let the JSON Schema of the rules accept a list of names in place of a mapping."""
    names = {"type": "array", "minItems": 1, "items": {"enum": list(schema["properties"])}}
    rules = dict(schema)
    schema.clear()
    schema["anyOf"] = [names, rules]


class Rules(StageConfig):
    """Settings of each rule that runs; None for the others."""

    model_config = ConfigDict(json_schema_extra=_or_names)

    exact_duplicates: Exact | None = Field(
        default=None, description="Drop rows that equal another one. Null leaves the rule out."
    )
    near_duplicates: Near | None = Field(
        default=None,
        description="Drop rows that are nearly equal to another one. Null leaves the rule out.",
    )
    same_response: Same | None = Field(
        default=None,
        description="Drop rows with the response of another one. Null leaves the rule out.",
    )
    empty: Empty | None = Field(
        default=None, description="Drop empty responses. Null leaves the rule out."
    )
    no_answer: NoAnswer | None = Field(
        default=None,
        description="Drop responses without an answer (N/A). Null leaves the rule out.",
    )
    missing_input: MissingInput | None = Field(
        default=None, description="Drop requests that lack their input. Null leaves the rule out."
    )
    media: Media | None = Field(
        default=None,
        description="Drop requests for images, sound or links. Null leaves the rule out.",
    )
    length: Length | None = Field(
        default=None,
        description="Drop responses that are too short or too long. Null leaves the rule out.",
    )
    characters: CharactersRule | None = Field(
        default=None,
        description="Drop responses of characters that form no text. Null leaves the rule out.",
    )
    script: Script | None = Field(
        default=None,
        description="Drop responses in a script that was not requested. Null leaves the rule out.",
    )
    repeats: Repeats | None = Field(
        default=None, description="Drop responses that repeat. Null leaves the rule out."
    )
    template: Template | None = Field(
        default=None,
        description="Drop leftovers of templates, web pages and refusals. Null leaves the rule out.",
    )
    copied: Copied | None = Field(
        default=None,
        description="Drop responses that copy the instruction. Null leaves the rule out.",
    )
    truncated: Truncated | None = Field(
        default=None, description="Drop responses that are cut off. Null leaves the rule out."
    )
    perplexity: Perplexity | None = Field(
        default=None,
        description="Drop responses outside a band of perplexity. Null leaves the rule out.",
    )

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, value: Any) -> Any:
        """Accept a list of rule names; in a mapping ``{}`` or null stands for default settings."""
        if isinstance(value, list | tuple):
            if any(not isinstance(name, str) for name in value):
                raise ValueError("rules must be a list of names, or a mapping of names to settings")
            if repeated := {name for name in value if value.count(name) > 1}:
                raise ValueError(f"rule {min(repeated)!r} is named twice")
            value = dict.fromkeys(value)
        if not isinstance(value, dict):
            return value
        for name in value:
            if name not in cls.model_fields:
                raise ValueError(
                    f"there is no rule {name!r}{did_you_mean(str(name), cls.model_fields)}"
                )
        if not value:
            raise ValueError(
                f"no rule is named; name some of {', '.join(cls.model_fields)}, or leave out rules"
            )
        return {name: {} if settings is None else settings for name, settings in value.items()}

    def row_rules(self) -> Iterator[tuple[str, StageConfig]]:
        """Yield name and settings of the rules that judge each row alone, in order."""
        for name in ROW_RULES:
            if (settings := getattr(self, name)) is not None:
                yield name, settings


def broken_rules(text: Text, rules: Rules) -> dict[str, str]:
    """Return the rules that a row alone breaks, with reasons. An empty response breaks only ``empty``."""
    reasons: dict[str, str] = {}
    for name, settings in rules.row_rules():
        reason = ROW_RULES[name](text, settings)
        if reason is not None:
            reasons[name] = reason
            if name == "empty":
                break
    return reasons
