"""What rules look at: a response and what was asked, their words, and the classes of their characters."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import numpy.typing as npt

from nfilter import Sample

FENCE = re.compile(r"^[ \t]{0,3}(```|~~~)(?![^\n]*\1)", re.MULTILINE)
"""The mark of a code block; code between two marks in one line is no block."""

# Scripts that write no spaces: a character counts as a word.
_SINGLE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_SCRIPTS = (
    ("Latin", ((0x41, 0x5A), (0x61, 0x7A), (0xAA, 0xAA), (0xBA, 0xBA), (0xC0, 0x2AF), (0x1E00, 0x1EFF),
               (0x2C60, 0x2C7F), (0xA720, 0xA7FF), (0xFB00, 0xFB06), (0xFF21, 0xFF5A))),
    ("Greek", ((0x370, 0x3FF), (0x1F00, 0x1FFF))),
    ("Cyrillic", ((0x400, 0x52F), (0x1C80, 0x1C8F), (0x2DE0, 0x2DFF), (0xA640, 0xA69F))),
    ("Armenian", ((0x530, 0x58F),)),
    ("Hebrew", ((0x590, 0x5FF), (0xFB1D, 0xFB4F))),
    ("Arabic", ((0x600, 0x6FF), (0x750, 0x77F), (0x8A0, 0x8FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFF))),
    ("Devanagari", ((0x900, 0x97F), (0xA8E0, 0xA8FF))),
    ("Bengali", ((0x980, 0x9FF),)),
    ("Gurmukhi", ((0xA00, 0xA7F),)),
    ("Gujarati", ((0xA80, 0xAFF),)),
    ("Odia", ((0xB00, 0xB7F),)),
    ("Tamil", ((0xB80, 0xBFF),)),
    ("Telugu", ((0xC00, 0xC7F),)),
    ("Kannada", ((0xC80, 0xCFF),)),
    ("Malayalam", ((0xD00, 0xD7F),)),
    ("Sinhala", ((0xD80, 0xDFF),)),
    ("Thai", ((0xE00, 0xE7F),)),
    ("Lao", ((0xE80, 0xEFF),)),
    ("Tibetan", ((0xF00, 0xFFF),)),
    ("Myanmar", ((0x1000, 0x109F),)),
    ("Georgian", ((0x10A0, 0x10FF), (0x1C90, 0x1CBF), (0x2D00, 0x2D2F))),
    ("Hangul", ((0x1100, 0x11FF), (0x3130, 0x318F), (0xA960, 0xA97F), (0xAC00, 0xD7FF))),
    ("Ethiopic", ((0x1200, 0x139F),)),
    ("Khmer", ((0x1780, 0x17FF),)),
    # Japanese writes both, so they are one here.
    ("Han and Kana", ((0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF),
                      (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9D), (0x20000, 0x3FFFF))),
)  # fmt: skip
SCRIPTS = ("other", *(name for name, _ in _SCRIPTS))


@cache
def _word() -> re.Pattern[str]:
    """Words with their marks and inner apostrophes; the engine's ``\\w`` leaves out marks, which would cut Hindi."""
    marks = [c for c in range(0x300, 0x10000) if unicodedata.category(chr(c)) in {"Mn", "Mc"}]
    runs: list[list[int]] = []
    for code in marks:
        if runs and runs[-1][1] == code - 1:
            runs[-1][1] = code
        else:
            runs.append([code, code])
    inner = "".join(f"{chr(low)}-{chr(high)}" for low, high in runs)
    letter = f"[^\\W_{_SINGLE}]"
    return re.compile(f"[{_SINGLE}]|{letter}(?:{letter}|['’](?={letter})|[{inner}])*")


@cache
def _classes() -> npt.NDArray[np.uint8]:
    """The class of every code point: 0 space, 1 letter, 2 mark, 3 digit, 4 symbol, 5 punctuation, 6 control, 7 U+FFFD."""
    order = {"Z": 0, "L": 1, "M": 2, "N": 3, "S": 4, "P": 5, "C": 6}
    table = np.fromiter(
        (order[unicodedata.category(chr(c))[0]] for c in range(0x110000)), np.uint8, 0x110000
    )
    table[[9, 10, 11, 12, 13, 0x85]] = 0
    # Joiners, direction marks, soft hyphens and variation selectors belong to their script or to emoji.
    table[
        [0xAD, 0xFEFF, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A)]
    ] = 2
    table[range(0xE0020, 0xE0080)] = 2
    table[0xFFFD] = 7
    return table


@cache
def _scripts() -> npt.NDArray[np.uint8]:
    table = np.zeros(0x110000, np.uint8)
    for number, (_, ranges) in enumerate(_SCRIPTS, start=1):
        for low, high in ranges:
            table[low : high + 1] = number
    return table


@dataclass(frozen=True, slots=True)
class Characters:
    """How many characters of each class a text has."""

    letters: int
    marks: int
    digits: int
    symbols: int
    punctuation: int
    controls: int
    replacements: int

    @property
    def visible(self) -> int:
        """All but spaces."""
        return sum((self.letters, self.marks, self.digits, self.symbols, self.punctuation, self.controls, self.replacements))  # fmt: skip

    @property
    def content(self) -> int:
        """Letters with their marks, digits and symbols: 42, ∞ and an emoji are answers."""
        return self.letters + self.marks + self.digits + self.symbols


def codes_of(text: str) -> npt.NDArray[np.uint32]:
    """Code points of a text, uint32 [n]."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def characters_of(text: str) -> Characters:
    """Count the classes."""
    counts = np.bincount(_classes()[codes_of(text)], minlength=8)[1:]
    return Characters(*(int(count) for count in counts))


def scripts_of(text: str) -> dict[str, int]:
    """How many letters of each script a text has."""
    codes = codes_of(text)
    letters = codes[_classes()[codes] == 1]
    counts = np.bincount(_scripts()[letters], minlength=len(SCRIPTS))
    return {SCRIPTS[place]: int(counts[place]) for place in np.flatnonzero(counts)}


def plain(text: str) -> str:
    """For comparison only: NFKC, casefolded, white space as one space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def words_of(text: str) -> list[str]:
    """Words of a plain text; a character of a script without spaces is one."""
    return _word().findall(text)


def numbered(words: list[str]) -> npt.NDArray[np.int64]:
    """Words as numbers, equal where the words are, within one process; int64 [n]."""
    return np.fromiter(map(hash, words), np.int64, len(words))


def _said(sample: Sample) -> str:
    """The response with the calls of tools that it makes: a turn that only calls is not empty."""
    if not sample.calls_tools:
        return sample.response
    calls = [f"{call.name}({call.arguments})" for call in sample.messages[-1].tool_calls]
    return "\n".join(filter(None, (sample.response, *calls)))


@dataclass(frozen=True)
class Text:
    """A response and what was asked for it. Everything else is worked out once, where it is needed."""

    response: str
    query: str
    context: str
    turns: str

    @classmethod
    def of(cls, sample: Sample) -> Text:
        """All turns before the response are its context; the last user's turn is the query."""
        context = "\x1e".join(f"{turn.role}\x1f{turn.content}" for turn in sample.context)
        turns = "\n".join(turn.content for turn in sample.context)
        return cls(_said(sample), sample.query, context, turns)

    @cached_property
    def plain(self) -> str:
        """The response for comparison."""
        return plain(self.response)

    @cached_property
    def plain_context(self) -> str:
        """All turns before the response for comparison."""
        return plain(self.context)

    @cached_property
    def asked(self) -> str:
        """The query for comparison."""
        return plain(self.query)

    @cached_property
    def words(self) -> list[str]:
        """Words of the response."""
        return words_of(self.plain)

    @cached_property
    def asked_words(self) -> list[str]:
        """Words of the query."""
        return words_of(self.asked)

    @cached_property
    def characters(self) -> Characters:
        """Classes of the response's characters."""
        return characters_of(self.response)

    @cached_property
    def fenced(self) -> bool:
        """Whether the response has a code block."""
        return FENCE.search(self.response) is not None
