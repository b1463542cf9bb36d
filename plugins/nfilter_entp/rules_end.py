"""The rule on a response's end: cut within a sentence, a bracket or a code block."""

from __future__ import annotations

import re

from pydantic import Field

from nfilter import StageConfig
from nfilter_entp.texts import FENCE, Text

_OPEN, _CLOSE = "([{（［【「『《", ")]}）］】」』》"
# Besides letters and digits these alone leave an end open: full stops of any language, quotes, symbols and emoji close it.
_GOES_ON = frozenset(",，、;-–—&/+=<([{（［【「『《")
_DANGLING = frozenset([
    "the", "an", "and", "or", "my", "your", "their", "its", "our", "because", "if", "than", "whose", "whereas",
    "although", "unless", "onto", "which", "including", "as", "when", "while", "among", "where", "who", "very", "such",
])  # fmt: skip
# "What it is": these end sentences too, though rarely. Particles such as "in" and verbs such as "could" do so often.
_STRANDED = frozenset([
    "of", "into", "during", "between", "these", "those", "is", "are", "was", "were", "has", "have", "had",
])  # fmt: skip
# The words above say nothing of texts in other languages.
_ENGLISH = frozenset(["the", "of", "and", "to", "is"])
_MARKER = re.compile(r"[ \t]*(?:(\d{1,3})[.)]|[-*•‣–])[ \t]*")
_ITEM = re.compile(
    r"[ \t]*(?:\d{1,3}[.):]|[-*•‣–·]|[a-zA-Z][.)]|step \d|day \d)[ \t]*\S", re.IGNORECASE
)
# The stop of an initial or of a short form ends no sentence.
_SENTENCE = re.compile(
    r"(?<!\b[A-Z])(?<!\b(?:Mr|Dr|Jr|Sr|St|vs|No))(?<!\bMrs)[.!?][\"'”’)]*\s+(?=[\"'“‘(]*[^\W\d_a-z])"
)
_ADDRESS = re.compile(
    r"(?:https?://|ftp://|www\.)\S*\Z|[\w.+-]{1,64}@[\w-]{1,64}\.[\w.-]{1,64}\Z|(?<!\S)[\w-]+(?:\.[\w-]+)*\.[a-z]{2,6}/\S*\Z"
)
_TERM = re.compile(r"[\s=(][*$€£×÷]\Z")  # a sum that goes on
_EMOTICON = re.compile(
    r"(?<!\S)(?:[<>]?[:;=8xX]['’]?[-o^]?[()\[\]{}dDpPoO/\\|@3*,]+|<3|[xX]D|\S{0,3}[°_^]\S{1,4})\Z"
)
_ANNOUNCED = re.compile(
    r"\b(?:here (?:is|are)|here's|as follows|(?:the|these) following|listed below|(?:code|example|list|steps|output|result) (?:is|are))\b[^.!?\n]{0,80}:\Z",
    re.IGNORECASE,
)
# What is asked about single words may end in any of them.
_OF_WORDS = re.compile(
    r"\b(?:words?|articles?|conjunctions?|prepositions?|pronouns?|adverbs?|verbs?|letters?|grammar|parts? of speech|rhymes?|homophones?|fill|blanks?|complete|unscramble|anagrams?)\b"
)


class Truncated(StageConfig):
    """The response ends where no text ends.

    Sure signs count in every response: a code block that is not closed. In one of ``least`` words: an announcement
    ("Here is the list:") with nothing behind it, an open bracket in the last line, a comma, an article or a conjunction at
    the end, a preposition or a verb such as ``is`` behind two sentences with a stop, a list's number without its item.
    ``sentences``, where it is set: a last sentence without an end, behind so many that have one in the same paragraph; off by
    default, as a forgotten full stop looks the same. Addresses, emoticons, code,
    tables, signatures and items of a list end as they like. Two signs come from the other rows: in prose, a last word that
    is none and begins one of theirs; and where ``habit`` of the responses have the same first word in their last line
    (``####``), a row without it that ends without a stop.
    """

    least: int = Field(default=12, ge=1)
    sentences: int | None = Field(default=None, ge=1)
    habit: float = Field(default=0.8, gt=0.5, le=1)


def truncated(text: Text, rule: Truncated) -> str | None:
    """What can be told without the other rows."""
    whole = text.response.rstrip()
    marks = FENCE.findall(whole)
    if marks.count("```") % 2 or marks.count("~~~") % 2:
        return "a code block is not closed"
    if text.fenced or len(text.words) < rule.least:
        return None
    last = whole[whole.rfind("\n") + 1 :]
    if found := _marker(whole, last):
        return found
    if _ANNOUNCED.search(last[-200:]):
        return f"it announces what is not there: {last[-60:]!r}"
    if not ends_open(whole) or _free_form(whole, last):
        return None
    return (
        _ends_in_sign(whole, last)
        or _bracket(whole, last)
        or _ends_in_word(text, last)
        or _no_stop(whole, last, rule)
    )


def ends_open(response: str) -> bool:
    """Whether the text ends in a letter, a digit or a sign after which more is to come."""
    whole = response.rstrip()
    if not whole or not (whole[-1] in _GOES_ON or whole[-1].isalnum() or _TERM.search(whole[-2:])):
        return False
    return not (_ADDRESS.search(whole[-200:]) or _EMOTICON.search(whole[-12:]))


def _free_form(whole: str, last: str) -> bool:
    """Code and tables, whose lines end as they like."""
    return code_marks(whole) > 1 or last.count("|") > 1 or last.count("\t") > 1


def _ends_in_sign(whole: str, last: str) -> str | None:
    sign, before = last[-1], last[-2:-1]
    # A letter's "With gratitude," has its comma by right, and so have all lines of some lists and verses.
    if "\n" in whole and len(last.split()) <= 4:
        return None
    if sign in ",，、":
        lines = [line.rstrip() for line in whole[:-1].splitlines()[:-1] if line.strip()]
        if code_marks(whole) or (lines and lines[-1].endswith(sign)):
            return None
        return f"it ends with {sign!r}"
    # "C++", "Disney+" and "pre-" are words; a sign alone joins what is not there.
    if sign in "-–—&/+(" and (before.isspace() or sign == "—") and not code_marks(whole):
        return f"it ends with {sign!r}"
    return None


def _bracket(whole: str, last: str) -> str | None:
    tail = last[-400:]
    opened = sum(c in _OPEN for c in tail) - sum(tail.count(face) for face in (":(", ";(", "=(", ":-(", ":'("))  # fmt: skip
    if opened <= sum(c in _CLOSE for c in tail) or code_marks(whole):
        return None
    # A remark begins behind a blank; in formulas, patterns and intervals brackets mean other things.
    if "\\" in tail or "$" in tail or not re.search(r"\s[(\[（]\w[^()\[\]（）]*\Z|[(\[（]\Z", tail):
        return None
    return f"a bracket is not closed in the last line: {tail[-40:]!r}"


def _ends_in_word(text: Text, last: str) -> str | None:
    word = text.words[-1]
    if word not in _DANGLING and (word not in _STRANDED or _stops(last) < 2):
        return None
    if not last[-1:].islower() or _ITEM.match(last) or not _english(text):
        return None
    return None if _OF_WORDS.search(text.asked[:2000]) else f"it ends with the word {word!r}"


def _no_stop(whole: str, last: str, rule: Truncated) -> str | None:
    stopped = _stops(last)
    if rule.sentences is None or stopped < rule.sentences:
        return None
    if not _ITEM.match(last) and whole[-1].isalnum():
        return f"the last sentence has no end, the {stopped} before it have: {last[-40:]!r}"
    return None


def _stops(last: str) -> int:
    return len(_SENTENCE.findall(last[-5000:]))


def in_prose(whole: str) -> bool:
    """Whether the last line is the begin of a sentence, among sentences that have their stops."""
    last = whole[whole.rfind("\n") + 1 :]
    words = last[-400:].split()
    if len(words) < 6 or _ITEM.match(last) or _free_form(whole, last):
        return False
    ended = len(whole) > len(last) and whole[: len(whole) - len(last)].rstrip()[-1:] in ".!?"
    return (ended or _stops(last) > 0) and len(re.split(r"[.!?]\s", last[-400:])[-1].split()) > 2


def _marker(whole: str, last: str) -> str | None:
    """A list that ends in the number of an item that is not there."""
    if not (found := _MARKER.fullmatch(last)):
        return None
    before = whole[: len(whole) - len(last)].rstrip()
    line = _MARKER.match(before[before.rfind("\n") + 1 :])
    # Where the item before is empty as well, the list is one to fill in.
    if (
        line
        and line.end() < len(line.string)
        and (found[1] is None or (line[1] and int(line[1]) + 1 == int(found[1])))
    ):
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
