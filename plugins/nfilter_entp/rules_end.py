"""The rule on a response's end: cut within a sentence, a bracket or a code block."""

from __future__ import annotations

import re

from pydantic import Field

from nfilter import StageConfig
from nfilter_entp.texts import FENCE, Text

_OPEN, _CLOSE = "([{（［【「『《", ")]}）］】」』》"
_CLOSERS = frozenset(".!?。！？．…।॥؟۔።՞։།៕။\"'”’»›)]}>）］】」』》`*_~|;:$%")
_DANGLING = frozenset([
    "the", "an", "and", "or", "my", "your", "their", "its", "our", "because", "if", "than", "whose", "whereas",
    "although", "unless", "onto", "which", "including", "as", "when", "while", "among", "where", "who", "very", "such",
    "being", "der", "die", "das", "und", "oder", "ein", "eine", "el", "los", "las", "y", "un", "una", "le", "les", "et",
    "des", "du", "une",
])  # fmt: skip
# "The house that we live in", "as soon as you can", "never seen before": these end sentences too.
_STRANDED = frozenset([
    "of", "into", "with", "from", "at", "by", "in", "on", "for", "after", "before", "during", "between", "through",
    "these", "those", "is", "are", "was", "were", "has", "have", "had", "will", "would", "should", "could", "can",
    "may", "might", "must", "be", "been",
])  # fmt: skip
# Words of other languages than the text's are no sign; those that English has as names or endings are left out here.
_ENGLISH = frozenset(["the", "of", "and", "to", "is"])
_MARKER = re.compile(r"[ \t]*(?:(\d{1,3})[.)]|[-*•‣–])[ \t]*")
_ITEM = re.compile(
    r"[ \t]*(?:\d{1,3}[.):]|[-*•‣–·]|[a-zA-Z][.)]|step \d|day \d)[ \t]*\S", re.IGNORECASE
)
_SENTENCE = re.compile(r"[.!?][\"'”’)]*\s+(?=[\"'“‘(]*[^\W\d_a-z])")


class Truncated(StageConfig):
    """The response ends where no text ends.

    Sure signs count in every response: a code block that is not closed. In one of ``least`` words: an open bracket in
    the last line, a comma, an article or a conjunction at the end, a preposition or a verb such as ``is`` behind two sentences
    with a stop, a list's number without its item, a last sentence without
    an end behind ``sentences`` that have one in the same paragraph. Two signs come from the other rows: a last word that is none and begins
    one of theirs; and where ``habit`` of the responses have the same first word in their last line (``####``), a row
    without it that ends without a stop.
    """

    least: int = Field(default=12, ge=1)
    sentences: int = Field(default=8, ge=1)
    habit: float = Field(default=0.8, gt=0.5, le=1)


def truncated(text: Text, rule: Truncated) -> str | None:  # noqa: PLR0911
    """What can be told without the other rows."""
    whole = text.response.rstrip()
    marks = FENCE.findall(whole)
    if marks.count("```") % 2 or marks.count("~~~") % 2:
        return "a code block is not closed"
    if text.fenced or len(text.words) < rule.least:
        return None
    last = whole[whole.rfind("\n") + 1 :]
    tail = last[-400:]
    if found := _marker(whole, last):
        return found
    if not ends_open(whole):
        return None
    # A letter's "With gratitude," has its comma by right.
    closing = "\n" in whole and len(last.split()) <= 4
    if tail[-1] in ",，、;-–—&/+(" and not closing and not code_marks(whole):
        return f"it ends with {tail[-1]!r}"
    opened = sum(c in _OPEN for c in tail) - sum(tail.count(face) for face in (":(", ";(", "=("))
    if opened > sum(c in _CLOSE for c in tail) and not code_marks(whole):
        return f"a bracket is not closed in the last line: {tail[-40:]!r}"
    word = text.words[-1]
    stopped = len(_SENTENCE.findall(last[-5000:]))
    if (
        (word in _DANGLING or (word in _STRANDED and stopped >= 2))
        and last.rstrip()[-1:].islower()
        and not _ITEM.match(last)
        and _english(text)
    ):
        return f"it ends with the word {word!r}"
    if stopped >= rule.sentences and not _ITEM.match(last) and whole[-1].isalnum():
        return f"the last sentence has no end, the {stopped} before it have: {tail[-40:]!r}"
    return None


def ends_open(response: str) -> bool:
    """Whether the text ends without a stop, a closing mark or a number's last line."""
    whole = response.rstrip()
    return bool(whole) and (whole[-1] not in _CLOSERS or whole[-1] == ";")


def _marker(whole: str, last: str) -> str | None:
    """A list that ends in the number of an item that is not there."""
    if not (found := _MARKER.fullmatch(last)):
        return None
    before = whole[: len(whole) - len(last)].rstrip()
    line = _MARKER.match(before[before.rfind("\n") + 1 :])
    if line and (found[1] is None or (line[1] and int(line[1]) + 1 == int(found[1]))):
        return f"the list's last item is empty: {last.strip()!r}"
    return None


_CODE = re.compile(
    r"[;{}=]\s*$|^\s*(?:def|class|import|return|for|if|function|#include|select)\b",
    re.MULTILINE | re.IGNORECASE,
)


def code_marks(whole: str) -> int:
    """How many signs of code the last lines have, where operators and brackets end lines."""
    return len(_CODE.findall(whole[-400:]))


def _english(text: Text) -> bool:
    return len(_ENGLISH.intersection(text.words)) >= 2
