"""Rule on a response's end: cut off within a sentence, a bracket or a code block."""

from __future__ import annotations

import re

from pydantic import Field

from nfilter import StageConfig
from nfilter_entp.purging.texts import FENCE, Text

_OPEN, _CLOSE = "([{（［【「『《", ")]}）］】」』》"
# With letters and digits, the characters that leave an end open; stops, quotes, symbols and emoji close it.
_OPEN_ENDS = frozenset(",，、;-–—&/+=<([{（［【「『《")
_DANGLING = frozenset([
    "the", "an", "and", "or", "my", "your", "their", "its", "our", "because", "if", "than", "whose", "whereas",
    "although", "unless", "onto", "which", "including", "as", "when", "while", "among", "where", "who", "very", "such",
])  # fmt: skip
# These end sentences too ("What it is"), but rarely; particles such as "in" and verbs such as "could" often do.
_STRANDED = frozenset([
    "of", "into", "during", "between", "these", "those", "is", "are", "was", "were", "has", "have", "had",
])  # fmt: skip
# The words above apply to English texts only.
_ENGLISH = frozenset(["the", "of", "and", "to", "is"])
_MARKER = re.compile(r"[ \t]*(?:(\d{1,3})[.)]|[-*•‣–])[ \t]*")
_ITEM = re.compile(
    r"[ \t]*(?:\d{1,3}[.):]|[-*•‣–·]|[a-zA-Z][.)]|step \d|day \d)[ \t]*\S", re.IGNORECASE
)
# The full stop of an initial or an abbreviation ends no sentence.
_SENTENCE = re.compile(
    r"(?<!\b[A-Z])(?<!\b(?:Mr|Dr|Jr|Sr|St|vs|No))(?<!\bMrs)[.!?][\"'”’)]*\s+(?=[\"'“‘(]*[^\W\d_a-z])"
)
_ADDRESS = re.compile(
    r"(?:https?://|ftp://|www\.)\S*\Z|[\w.+-]{1,64}@[\w-]{1,64}\.[\w.-]{1,64}\Z|(?<!\S)[\w-]+(?:\.[\w-]+)*\.[a-z]{2,6}/\S*\Z"
)
_UNFINISHED_SUM = re.compile(r"[\s=(][*$€£×÷]\Z")  # an unfinished sum
_EMOTICON = re.compile(
    r"(?<!\S)(?:[<>]?[:;=8xX]['’]?[-o^]?[()\[\]{}dDpPoO/\\|@3*,]+|<3|[xX]D|\S{0,3}[°_^]\S{1,4})\Z"
)
_ANNOUNCEMENT = re.compile(
    r"\b(?:here (?:is|are)|here's|as follows|(?:the|these) following|listed below|(?:code|example|list|steps|output|result) (?:is|are))\b[^.!?\n]{0,80}:\Z",
    re.IGNORECASE,
)
# Answers to questions about words may end in any word.
_ABOUT_WORDS = re.compile(
    r"\b(?:words?|articles?|conjunctions?|prepositions?|pronouns?|adverbs?|verbs?|letters?|grammar|parts? of speech|rhymes?|homophones?|fill|blanks?|complete|unscramble|anagrams?)\b"
)


class Truncated(StageConfig):
    """The response is cut off.

    In every response: a code block that is not closed. In a response of at least ``least`` words, also: an announcement ("Here is the
    list:") with nothing after it; an open bracket in the last line; a comma, an article or a conjunction at the end; a preposition or
    a verb such as ``is`` after two complete sentences; a list number without its item. ``sentences``, if set: a last sentence without
    a full stop after this number of complete ones in its paragraph; off by default, since a forgotten full stop looks the same.
    Addresses, emoticons, code, tables, signatures and list items may end in any way. Two signs need the other rows: in prose, a last
    word that is no word but a prefix of one in another row; and, if a share of ``habit`` of the responses starts the last line with
    the same word (``####``), a response without it that ends without a full stop.
    """

    least: int = Field(
        default=12, ge=1, description="Words of a response from which its end is judged."
    )
    sentences: int | None = Field(
        default=None,
        ge=1,
        description="Complete sentences in a paragraph after which one without a full stop is cut off; null: never.",
    )
    habit: float = Field(
        default=0.8,
        gt=0.5,
        le=1,
        description="Share of the responses that start their last line alike, from which the others count as cut off, above 0.5, at most 1.",
    )


def truncated(text: Text, rule: Truncated) -> str | None:
    """Return the reason if the response is cut off, judged without other rows."""
    whole = text.response.rstrip()
    marks = FENCE.findall(whole)
    if marks.count("```") % 2 or marks.count("~~~") % 2:
        return "a code block is not closed"
    if text.fenced or len(text.words) < rule.least:
        return None
    last = whole[whole.rfind("\n") + 1 :]
    if reason := _empty_last_item(whole, last):
        return reason
    if _ANNOUNCEMENT.search(last[-200:]):
        return f"it announces content that is missing: {last[-60:]!r}"
    if not is_open_ended(whole) or _free_form(whole, last):
        return None
    return (
        _dangling_sign(whole, last)
        or _open_bracket(whole, last)
        or _dangling_word(text, last)
        or _missing_full_stop(whole, last, rule)
    )


def is_open_ended(response: str) -> bool:
    """Return whether the text ends in a letter, a digit or a character that needs a continuation."""
    whole = response.rstrip()
    if not whole or not (
        whole[-1] in _OPEN_ENDS or whole[-1].isalnum() or _UNFINISHED_SUM.search(whole[-2:])
    ):
        return False
    return not (_ADDRESS.search(whole[-200:]) or _EMOTICON.search(whole[-12:]))


def _free_form(whole: str, last: str) -> bool:
    """Return whether the end is code or a table, whose lines may end in any way."""
    return code_marks(whole) > 1 or last.count("|") > 1 or last.count("\t") > 1


def _dangling_sign(whole: str, last: str) -> str | None:
    sign, before = last[-1], last[-2:-1]
    # "With gratitude," ends a letter with a comma; so do all lines of some lists and verses.
    if "\n" in whole and len(last.split()) <= 4:
        return None
    if sign in ",，、":
        lines = [line.rstrip() for line in whole[:-1].splitlines()[:-1] if line.strip()]
        if code_marks(whole) or (lines and lines[-1].endswith(sign)):
            return None
        return f"it ends with {sign!r}"
    # "C++", "Disney+" and "pre-" are words; a separate sign joins something that is missing.
    if sign in "-–—&/+(" and (before.isspace() or sign == "—") and not code_marks(whole):
        return f"it ends with {sign!r}"
    return None


def _open_bracket(whole: str, last: str) -> str | None:
    tail = last[-400:]
    open_count = sum(c in _OPEN for c in tail) - sum(tail.count(face) for face in (":(", ";(", "=(", ":-(", ":'("))  # fmt: skip
    if open_count <= sum(c in _CLOSE for c in tail) or code_marks(whole):
        return None
    # A remark starts after a space; in formulas, patterns and intervals brackets have other meanings.
    if "\\" in tail or "$" in tail or not re.search(r"\s[(\[（]\w[^()\[\]（）]*\Z|[(\[（]\Z", tail):
        return None
    return f"a bracket is not closed in the last line: {tail[-40:]!r}"


def _dangling_word(text: Text, last: str) -> str | None:
    word = text.words[-1]
    if word not in _DANGLING and (word not in _STRANDED or _complete_sentences(last) < 2):
        return None
    if not last[-1:].islower() or _ITEM.match(last) or not _is_english(text):
        return None
    return (
        None if _ABOUT_WORDS.search(text.plain_query[:2000]) else f"it ends with the word {word!r}"
    )


def _missing_full_stop(whole: str, last: str, rule: Truncated) -> str | None:
    complete = _complete_sentences(last)
    if rule.sentences is None or complete < rule.sentences:
        return None
    if not _ITEM.match(last) and whole[-1].isalnum():
        return (
            f"the last sentence has no full stop, unlike the {complete} before it: {last[-40:]!r}"
        )
    return None


def _complete_sentences(last: str) -> int:
    return len(_SENTENCE.findall(last[-5000:]))


def in_prose(whole: str) -> bool:
    """Return whether the last line ends in an incomplete sentence that follows complete ones."""
    last = whole[whole.rfind("\n") + 1 :]
    words = last[-400:].split()
    if len(words) < 6 or _ITEM.match(last) or _free_form(whole, last):
        return False
    ended = len(whole) > len(last) and whole[: len(whole) - len(last)].rstrip()[-1:] in ".!?"
    return (ended or _complete_sentences(last) > 0) and len(
        re.split(r"[.!?]\s", last[-400:])[-1].split()
    ) > 2


def _empty_last_item(whole: str, last: str) -> str | None:
    """Return the reason if a list ends with the number of an empty item."""
    if not (match := _MARKER.fullmatch(last)):
        return None
    before = whole[: len(whole) - len(last)].rstrip()
    line = _MARKER.match(before[before.rfind("\n") + 1 :])
    # If the previous item is empty too, the list is a form to fill in.
    if (
        line
        and line.end() < len(line.string)
        and (match[1] is None or (line[1] and int(line[1]) + 1 == int(match[1])))
    ):
        return f"the list's last item is empty: {last.strip()!r}"
    return None


_CODE = re.compile(
    r"[;{}=]\s*$|^\s*(?:def|class|import|return|for|if|function|#include|select)\b",
    re.MULTILINE | re.IGNORECASE,
)


def code_marks(whole: str) -> int:
    """Count the signs of code in the last lines; in code, operators and brackets end lines."""
    return len(_CODE.findall(whole[-400:]))


def _is_english(text: Text) -> bool:
    return len(_ENGLISH.intersection(text.words)) >= 2
