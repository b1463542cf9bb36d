"""Separate the reasoning that a model writes between two marks from its answer. The only place where it is cut."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated

from pydantic import AfterValidator, Strict

from nfilter.api.calls import Completion, Failure

MARKS: tuple[tuple[str, str], ...] = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
)
"""The pairs of opening and closing marks that are recognised by default."""

_MOST = 64  # characters of a mark


def _valid_marks(value: tuple[str, ...]) -> tuple[str, ...]:
    distinct = len({mark.strip().casefold() for mark in value}) == len(value)
    sized = all(0 < len(mark.strip()) <= _MOST for mark in value)
    if value and not (len(value) == 2 and distinct and sized):
        raise ValueError(
            'thoughts is the opening and the closing mark, two different texts such as ["<think>", "</think>"], or [] '
            "where nothing is to be cut"
        )
    return value


Marks = Annotated[tuple[Annotated[str, Strict()], ...], AfterValidator(_valid_marks)]
"""The setting ``thoughts``: an opening and a closing mark, or an empty list."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A text without its reasoning. ``thoughts`` is the reasoning or None; ``open`` is True if the last block has no end."""

    text: str
    thoughts: str | None = None
    open: bool = False


@dataclass(frozen=True)
class Thoughts:
    """The marks around reasoning: those of the setting ``marks`` (empty: cut nothing), by default any of ``MARKS``."""

    marks: tuple[str, ...] | None = None

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The active pairs of marks."""
        if self.marks is None:
            return MARKS
        return ((self.marks[0], self.marks[1]),) if self.marks else ()

    def cut(self, text: str, *, opened: bool = False) -> Cut:
        """Cut the reasoning from ``text``: everything before the last closing mark, with or without an opening mark.

        A line that begins with an opening mark after that begins a thought that never ends. ``opened`` says that the
        prompt ended with an opening mark, so that the text begins within a thought.
        """
        if not self.pairs:
            return Cut(text)
        closing = None
        for closing in self._closing.finditer(text):  # noqa: B007 (the last one is meant)
            pass
        before, rest = (text[: closing.start()], text[closing.end() :]) if closing else ("", text)
        opening = re.match(r"", rest) if opened and closing is None else self._opening.search(rest)
        if closing is None and opening is None:
            return Cut(text)
        parts = [before, rest[opening.start() :] if opening else ""]
        said = "\n".join(part for each in parts if (part := self._any.sub("\n", each).strip()))
        left = rest[: opening.start()] if opening else rest
        return Cut(left.strip(), said or None, open=opening is not None)

    def opens(self, prompt: str) -> bool:
        """Whether ``prompt`` ends with an opening mark, i.e. the template starts the reasoning."""
        tail = prompt[-4 * _MOST :].rstrip().casefold()
        return any(tail.endswith(opening.casefold()) for opening, _ in self.pairs)

    def separated(self, done: Completion, *, opened: bool = False) -> Completion:
        """Return ``done`` with its reasoning in ``reasoning``; reasoning without an end becomes the failure too_long.

        Where the marks come from a setting, the model is one that thinks: a reply cut off at max_tokens before any
        closing mark is a thought that never ended, although its opening mark stood in the prompt.
        """
        if done.failure is not None:
            return done
        cut = self.cut(done.text, opened=opened)
        thinks = bool(self.marks) or bool(done.reasoning)
        ended = self._closing.search(done.text) if self.pairs else None
        unfinished = cut.open or (
            done.finish == "length" and thinks and (not cut.text if done.reasoning else not ended)
        )
        if unfinished and not cut.open:
            cut = Cut("", cut.thoughts or cut.text or None)
        reasoning = "\n\n".join(part for part in (done.reasoning, cut.thoughts) if part) or None
        if not unfinished:
            same = cut.thoughts is None and cut.text == done.text
            return done if same else replace(done, text=cut.text, reasoning=reasoning)
        how = "was cut off at max_tokens" if done.finish == "length" else "has no end"
        detail = f"the thought before the answer {how}; set a higher max_tokens"
        return replace(
            done, text="", finish="failed", logprobs=None, reasoning=reasoning, failure=Failure("too_long", detail)
        )  # fmt: skip

    @cached_property
    def _closing(self) -> re.Pattern[str]:
        return _either(closing for _, closing in self.pairs)

    @cached_property
    def _opening(self) -> re.Pattern[str]:
        return re.compile(
            rf"^[ \t]*+(?:{_either(opening for opening, _ in self.pairs).pattern})",
            re.IGNORECASE | re.MULTILINE,
        )

    @cached_property
    def _any(self) -> re.Pattern[str]:
        return _either(mark for pair in self.pairs for mark in pair)


def _either(marks: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(mark.strip()) for mark in marks), re.IGNORECASE)
