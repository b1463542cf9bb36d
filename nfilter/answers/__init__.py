"""Find the answer in a text, convert it to a canonical form, and compare answers. One kind per recipe.

Agreement between a label and a model's reply is decided here and nowhere else. A reply in which no answer can
be read has none (None), which is a state of its own: it agrees with nothing, itself included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nfilter.answers.choice import Choice
from nfilter.answers.config import AnswerConfig
from nfilter.answers.judge import judged_by
from nfilter.answers.label import Label
from nfilter.answers.number import Number
from nfilter.answers.preference import Preference
from nfilter.answers.thinking import AfterThoughts
from nfilter.answers.thoughts import Thoughts
from nfilter.answers.words import Exact, Spans, Text
from nfilter.api.stages import AnswerKind
from nfilter.api.types import FloatArray

__all__ = ["AnswerConfig", "build", "judged_by"]


def build(
    config: AnswerConfig,
    *,
    embed: Callable[[Sequence[str]], FloatArray] | None = None,
    judge: Callable[[Sequence[tuple[str, str]]], list[bool]] | None = None,
) -> AnswerKind:
    """Build the answer kind that ``config`` describes.

    ``embed`` turns n texts into vectors, float32 [n, d]; ``judge`` says of each pair of texts whether they say
    the same. ``text`` compares with the one that the config names a model for; without it texts can be read, but
    not compared. Other kinds need neither.
    """
    if config.kind == "preference":
        return Preference()  # a response is compared as a whole, with its thoughts
    return AfterThoughts(_kind(config, embed, judge), Thoughts(config.thoughts))


def _kind(
    config: AnswerConfig,
    embed: Callable[[Sequence[str]], FloatArray] | None,
    judge: Callable[[Sequence[tuple[str, str]]], list[bool]] | None,
) -> AnswerKind:
    plain: dict[str, Callable[[], AnswerKind]] = {"choice": Choice, "label": Label, "exact": Exact}
    if config.kind in plain:
        return plain[config.kind]()
    match config.kind:
        case "number":
            return Number(
                config.tolerance, config.absolute, tuple(config.units.items()), config.locale
            )
        case "spans":
            return Spans(config.f1)
    if config.judge is not None:
        return Text(config.similarity, judge=judge)
    return Text(config.similarity, embed=embed)
