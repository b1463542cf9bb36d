"""Answers in words: the same words, sets of spans, and open-ended text."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from unicodedata import category

import numpy as np

from nfilter.answers.choice import options_of
from nfilter.answers.markers import statements
from nfilter.answers.quantity import canonical, value
from nfilter.answers.reading import clean, fold, line_at
from nfilter.api.types import FloatArray, Sample

MAX_SPANS = 64

_HEADING_WORDS = 4
_ROUNDS = 8  # of normalising until nothing changes; two are enough but for texts made to need more
_LETTER = re.compile(r"[^\W_]")
_SYMBOLS = frozenset({"Sm", "Sc", "So", "Sk"})
_DECORATION = "→⇒➜➡►▶✓✔✅☑"  # before an answer, not part of it
_SIGNS_BEFORE = "+-$€£<>=~±.#"
_SIGNS_AFTER = re.compile(r"[%°+#]*(?:-(?=\Z))?|\$(?=\Z)")
_UNDRESSED = re.compile(r"\A\$([^$]*[^$\s])\$[.\s]*\Z")
_LONE_SIGN = re.compile(r"(?![.,:;!?_`'\"-]{2})[-+/*<>=%$#&@^|~!→⇒➜➡►▶✓✔✅☑]{1,2}|\+/-")
_INTERVAL = re.compile(r"[\[\](][^\[\]()a-z]*,[^\[\]()a-z]*[\[\])]")
_BULLET = re.compile(r"^\s*(?:[-*•–]|\d{1,3}[.)])\s+")
_SPLIT = re.compile(r"[;\n]|(?<!\d),|,(?!\d{3}(?!\d))|(?<!\w)and(?!\w)", re.IGNORECASE)
_ARTICLES = frozenset({"a", "an", "the"})
_MARK = re.compile(
    r"^(?:(?:[^\w\n]|_)*+(?:(?:final|my|the)[ ])?answer[*_ ]{0,6}:[*_ \t]*)+",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(slots=True)
class Exact:
    """The same words: compatibility-normalised, case-folded, one space between words, no outer punctuation.

    Where the text states its answer ("Answer: ..."), what counts is the line that says so.
    """

    kind: str = field(default="exact", init=False)

    def parse(self, text: str, sample: Sample | None = None) -> str | None:
        """The words in canonical form, or None where there are none but "Answer:"."""
        if _is_heading(text):
            return None
        for _ in range(_ROUNDS):
            before, text = text, _words(_stated_line(clean(text, words=True)))
            if text == before:
                break
        return text or None

    def agree(self, pairs: Sequence[tuple[str | None, str | None]]) -> list[bool]:
        """Whether the two are equal."""
        return [left is not None and left == right for left, right in pairs]

    def options(self, sample: Sample) -> tuple[str, ...] | None:
        """``meta["options"]`` as strings."""
        return options_of(sample)


@dataclass(slots=True)
class Spans:
    """A set of strings, as in DROP: a JSON list, or a text split at commas, semicolons, lines and "and".

    Two sets agree when the mean token F1 of their best-matching spans, over the larger set, is at least
    ``threshold``; two spans with numbers match only where they share one.
    """

    threshold: float = 0.8

    kind: str = field(default="spans", init=False)

    def parse(self, text: str, sample: Sample | None = None) -> str | None:
        """The spans as a sorted JSON list of strings, or None where there are none but "Answer:"."""
        if _is_heading(text):
            return None
        listed = _json_list(text)
        if listed is None:
            stated = _stated_line(clean(text, words=True))
            listed = _json_list(stated)
            if listed is None:
                listed = [_BULLET.sub("", part) for part in _SPLIT.split(stated)]
        spans = sorted({span for item in listed if (span := _span(item))})
        return json.dumps(spans[:MAX_SPANS], ensure_ascii=False) if spans else None

    def agree(self, pairs: Sequence[tuple[str | None, str | None]]) -> list[bool]:
        """Whether the F1 of the two sets reaches the threshold."""
        return [
            left is not None and right is not None and self._same(left, right)
            for left, right in pairs
        ]

    def options(self, sample: Sample) -> tuple[str, ...] | None:
        """``meta["options"]`` as strings."""
        return options_of(sample)

    def _same(self, left: str, right: str) -> bool:
        if left == right:
            return True
        one, other = (_json_list(text) or [text] for text in (left, right))
        return spans_f1(one, other) >= self.threshold


@dataclass(slots=True)
class Text:
    """Open-ended text: what follows the last line that begins with "Answer:", or all of it.

    Two texts agree when they are equal but for case and spacing, or when the cosine of their embeddings reaches
    ``similarity``, or (with a judge instead) when the judge says so. A pair is asked about once, in one order.
    """

    similarity: float = 0.8
    embed: Callable[[Sequence[str]], FloatArray] | None = None
    judge: Callable[[Sequence[tuple[str, str]]], list[bool]] | None = None

    kind: str = field(default="text", init=False)

    def parse(self, text: str, sample: Sample | None = None) -> str | None:
        """The text after the marker, stripped; None where nothing is there but punctuation."""
        end = 0
        for match in _MARK.finditer(text):
            end = match.end()
        said = text[end:].strip()
        return said if _says_something(said) else None

    def agree(self, pairs: Sequence[tuple[str | None, str | None]]) -> list[bool]:
        """Whether the two say the same, asked of the model in one batch.

        Raises:
            ValueError: when there is something to compare, and neither an encoder nor a judge to do it.
        """
        keys = [
            None if left is None or right is None else (min(left, right), max(left, right))
            for left, right in pairs
        ]
        same = {key: True for key in keys if key is not None and _flat(key[0]) == _flat(key[1])}
        asked = list(dict.fromkeys(key for key in keys if key is not None and key not in same))
        if asked:
            same.update(zip(asked, self._compare(asked), strict=True))
        return [key is not None and same[key] for key in keys]

    def options(self, sample: Sample) -> tuple[str, ...] | None:
        """``meta["options"]`` as strings."""
        return options_of(sample)

    def _compare(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        if self.judge is not None:
            return self.judge(pairs)
        if self.embed is None:
            raise ValueError("texts cannot be compared here: no encoder and no judge was given")
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        rows = np.asarray(self.embed(texts), dtype=np.float64)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        rows = rows / np.where(lengths > 0, lengths, 1.0)
        place = {text: index for index, text in enumerate(texts)}
        return [
            bool(rows[place[left]] @ rows[place[right]] >= self.similarity) for left, right in pairs
        ]


def spans_f1(left: Sequence[str], right: Sequence[str]) -> float:
    """Mean token F1 of the spans of two sets, matched best first, over the size of the larger one (DROP)."""
    if not left or not right:
        return 0.0
    bags = [
        [Counter(span.split()) for span in side] for side in sorted((sorted(left), sorted(right)))
    ]
    scores = sorted(
        (
            (-_bag_f1(one, other), i, j)
            for i, one in enumerate(bags[0])
            for j, other in enumerate(bags[1])
        ),
    )
    used: tuple[set[int], set[int]] = (set(), set())
    total = 0.0
    for score, i, j in scores:
        if i not in used[0] and j not in used[1]:
            used[0].add(i)
            used[1].add(j)
            total -= score
    return total / max(len(left), len(right))


def _bag_f1(left: Counter[str], right: Counter[str]) -> float:
    numbers = [{token for token in bag if value(token) is not None} for bag in (left, right)]
    if numbers[0] | numbers[1] and not numbers[0] & numbers[1]:
        return 0.0
    shared = sum((left & right).values())
    return 2 * shared / (left.total() + right.total()) if shared else 0.0


def _is_heading(text: str) -> bool:
    """Whether the text is "Answer:", in whatever language, and nothing after it."""
    cleaned = clean(text, words=True)
    return any(
        each.form == "heading"
        and not _words(cleaned[each.position :])
        and len(cleaned[: each.position].split()) <= _HEADING_WORDS
        and cleaned[: each.position].rstrip().endswith(":")
        for each in statements(cleaned)[:1]
    )


def _stated_line(text: str) -> str:
    """The line after the last marker of an answer; the whole text where there is none that is followed by words."""
    for each in reversed(statements(text)):
        line = line_at(text, each.position)
        if _words(line):
            return line
    return text


def _words(text: str) -> str:
    """Folded words, one space between them, without outer punctuation, but for the signs of a number.

    A text without a word keeps its symbols: an emoji or "∞" is a label, and so is a lone "+" or "<=".
    """
    folded = " ".join(fold(text).split())
    folded = _UNDRESSED.sub(r"\1", folded)
    if _LONE_SIGN.fullmatch(folded) or _INTERVAL.fullmatch(folded):
        return folded
    start, end = _edges(folded)
    if start == end:
        return ""
    signed = folded[start].isdecimal() or category(folded[start]) in _SYMBOLS
    while signed and start and folded[start - 1] in _SIGNS_BEFORE:
        start -= 1
    after = _SIGNS_AFTER.match(folded, end)
    return folded[start : after.end() if after else end]


def _edges(text: str) -> tuple[int, int]:
    """Where the first character that is a letter, a mark, a digit or a symbol stands, and where the last one ends."""
    places = range(len(text))
    first = next((place for place in places if _is_content(text[place])), None)
    if first is None:
        return 0, 0
    return first, next(place for place in reversed(places) if _is_content(text[place])) + 1


def _is_content(char: str) -> bool:
    # Of ASCII's own symbols none begins or ends a word: those of a number are looked at apart.
    kind = category(char)
    return kind[0] in "LNM" or (kind in _SYMBOLS and not char.isascii() and char not in _DECORATION)


def _span(item: Any) -> str:
    tokens = []
    for token in _words(str(item)).split():
        bare = _words(token)
        number = value(bare)
        tokens.append((canonical(number) or bare) if number is not None else bare)
    named = [token for token in tokens if token and token not in _ARTICLES]
    # Once an article is gone, a sign that stood beside it is at the edge.
    return _words(" ".join(named or [token for token in tokens if token]))


def _json_list(text: str) -> list[Any] | None:
    text = text.strip()
    if not text.startswith("[") or len(text) > 20_000:
        return None
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(items, list):
        return None
    return [item for item in items if isinstance(item, str | int | float)]


def _says_something(text: str) -> bool:
    """Whether there is a letter, a digit or a sign of its own (an emoji, an infinity): more than punctuation."""
    if _LETTER.search(text):
        return True
    return any(not char.isascii() and category(char).startswith("S") for char in text)


def _flat(text: str) -> str:
    return " ".join(fold(text).split())
