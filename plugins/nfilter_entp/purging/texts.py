"""Text features that rules use: words, character classes and scripts of a response and its query."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import numpy.typing as npt

from nfilter import Sample

FENCE = re.compile(r"^[ \t]{0,3}(```|~~~)(?![^\n]*\1)", re.MULTILINE)
"""Code fence; one that is closed on its own line opens no block."""

# Scripts without spaces: each character counts as a word.
_UNSPACED = (
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
    # Japanese mixes both, so they form one class.
    ("Han and Kana", ((0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF),
                      (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9D), (0x20000, 0x3FFFF))),
)  # fmt: skip
SCRIPTS = ("other", *(name for name, _ in _SCRIPTS))


@cache
def _word_pattern() -> re.Pattern[str]:
    """Return the pattern of a word, with combining marks and inner apostrophes; ``\\w`` excludes marks, which would split Hindi words."""
    marks = [c for c in range(0x300, 0x10000) if unicodedata.category(chr(c)) in {"Mn", "Mc"}]
    runs: list[list[int]] = []
    for code in marks:
        if runs and runs[-1][1] == code - 1:
            runs[-1][1] = code
        else:
            runs.append([code, code])
    inner = "".join(f"{chr(low)}-{chr(high)}" for low, high in runs)
    letter = f"[^\\W_{_UNSPACED}]"
    return re.compile(f"[{_UNSPACED}]|{letter}(?:{letter}|['’](?={letter})|[{inner}])*")


@cache
def _class_table() -> npt.NDArray[np.uint8]:
    """Return the class of every code point: 0 space, 1 letter, 2 mark, 3 digit, 4 symbol, 5 punctuation, 6 control, 7 U+FFFD."""
    order = {"Z": 0, "L": 1, "M": 2, "N": 3, "S": 4, "P": 5, "C": 6}
    table = np.fromiter(
        (order[unicodedata.category(chr(c))[0]] for c in range(0x110000)), np.uint8, 0x110000
    )
    table[[9, 10, 11, 12, 13, 0x85]] = 0
    # Joiners, direction marks, soft hyphens and variation selectors count as marks: they belong to a script or an emoji.
    table[
        [0xAD, 0xFEFF, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A)]
    ] = 2
    table[range(0xE0020, 0xE0080)] = 2
    table[0xFFFD] = 7
    return table


@cache
def _script_table() -> npt.NDArray[np.uint8]:
    table = np.zeros(0x110000, np.uint8)
    for number, (_, ranges) in enumerate(_SCRIPTS, start=1):
        for low, high in ranges:
            table[low : high + 1] = number
    return table


@dataclass(frozen=True, slots=True)
class Characters:
    """Number of characters of each class in a text."""

    letters: int
    marks: int
    digits: int
    symbols: int
    punctuation: int
    controls: int
    replacements: int

    @property
    def visible(self) -> int:
        """All characters except spaces."""
        return sum((self.letters, self.marks, self.digits, self.symbols, self.punctuation, self.controls, self.replacements))  # fmt: skip

    @property
    def content(self) -> int:
        """Letters, marks, digits and symbols: 42, ∞ and an emoji are answers."""
        return self.letters + self.marks + self.digits + self.symbols


def codes_of(text: str) -> npt.NDArray[np.uint32]:
    """Return the code points of a text, uint32 [n]."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def characters_of(text: str) -> Characters:
    """Count the character classes of a text."""
    counts = np.bincount(_class_table()[codes_of(text)], minlength=8)[1:]
    return Characters(*(int(count) for count in counts))


def scripts_of(text: str) -> dict[str, int]:
    """Return the number of letters of each script in a text."""
    codes = codes_of(text)
    letters = codes[_class_table()[codes] == 1]
    counts = np.bincount(_script_table()[letters], minlength=len(SCRIPTS))
    return {SCRIPTS[index]: int(counts[index]) for index in np.flatnonzero(counts)}


def plain(text: str) -> str:
    """Normalise a text for comparison: NFKC, casefold, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def words_of(text: str) -> list[str]:
    """Return the words of a normalised text; in scripts without spaces each character is one."""
    return _word_pattern().findall(text)


def word_hashes(words: list[str]) -> npt.NDArray[np.int64]:
    """Return word hashes, int64 [n]; equal words have equal hashes within one process."""
    return np.fromiter(map(hash, words), np.int64, len(words))


def _response_text(sample: Sample) -> str:
    """Return the response with its tool calls, so that a turn with calls alone is not empty."""
    if not sample.calls_tools:
        return sample.response
    calls = [f"{call.name}({call.arguments})" for call in sample.messages[-1].tool_calls]
    return "\n".join(filter(None, (sample.response, *calls)))


@dataclass(frozen=True)
class Text:
    """A response and its query. Derived features are computed on first use."""

    response: str
    query: str
    context: str
    turns: str

    @classmethod
    def of(cls, sample: Sample) -> Text:
        """Build from a sample: ``context`` is all turns before the response, ``query`` the last user turn."""
        context = "\x1e".join(f"{turn.role}\x1f{turn.content}" for turn in sample.context)
        turns = "\n".join(turn.content for turn in sample.context)
        return cls(_response_text(sample), sample.query, context, turns)

    @cached_property
    def plain(self) -> str:
        """The normalised response."""
        return plain(self.response)

    @cached_property
    def plain_context(self) -> str:
        """All turns before the response, normalised."""
        return plain(self.context)

    @cached_property
    def plain_query(self) -> str:
        """The normalised query."""
        return plain(self.query)

    @cached_property
    def words(self) -> list[str]:
        """Words of the response."""
        return words_of(self.plain)

    @cached_property
    def query_words(self) -> list[str]:
        """Words of the query."""
        return words_of(self.plain_query)

    @cached_property
    def characters(self) -> Characters:
        """Character classes of the response."""
        return characters_of(self.response)

    @cached_property
    def fenced(self) -> bool:
        """Whether the response contains a code block."""
        return FENCE.search(self.response) is not None
