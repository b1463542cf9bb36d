"""Comparable keys of a sample: query text, options, label, and whether the label is trusted."""

from __future__ import annotations

import string

from nfilter import Context, Sample

REVIEWED = "@review"
"""In place of a column: the rows whose label a person decided."""


def is_trusted(sample: Sample, column: str | None) -> bool:
    """Return whether ``column`` marks the label as right: true, 1, or the string "true", "yes" or "1"."""
    if column is None:
        return False
    if column == REVIEWED:
        return sample.pinned
    value = sample.meta.get(column)
    if isinstance(value, str):
        return value.strip().lower() in ("true", "yes", "1")
    return value is True or (isinstance(value, int | float) and value == 1)


def options_of(sample: Sample, ctx: Context) -> list[str]:
    """Return the keys of the sample's options; empty without options."""
    options = ctx.answers.options(sample) or ()
    return [" ".join(option.split()) for option in options][: len(string.ascii_uppercase)]


def label_of(sample: Sample, ctx: Context) -> str | None:
    """Return the key of the label: the text of its option, else the canonical answer."""
    return key_of(ctx.answers.parse(sample.response, sample), sample, ctx)


def key_of(answer: str | None, sample: Sample, ctx: Context) -> str | None:
    """Return the key of a canonical answer: the text of its option, else the answer itself."""
    options = options_of(sample, ctx)
    if answer is None or not options:
        return answer
    index = string.ascii_uppercase.find(answer) if len(answer) == 1 else -1
    return options[index] if 0 <= index < len(options) else None


def text_of(sample: Sample, ctx: Context) -> str:
    """Return the text to embed: the query without trailing lines of lettered options."""
    options = ctx.answers.options(sample)
    if not options:
        return sample.query
    lines = [
        f"{letter}. {option}"
        for letter, option in zip(string.ascii_uppercase, options, strict=False)
    ]
    return sample.query.rstrip().removesuffix("\n".join(lines)).rstrip() or sample.query
