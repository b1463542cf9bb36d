"""Inject noise inside responses: filler, asides and wrong words at known positions, to measure token methods.

What is put in is marked by the characters that it takes (``Row.noise``), which no stage sees. The amount is exact on
average: the last piece of a row goes in with the probability that makes it so.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from nfilter.api.errors import SourceError
from nfilter.api.types import NoiseSpan, Row
from nfilter.noise.label_corruption import missed

TokenNoiseKind = Literal["boilerplate", "aside", "wrong"]
KINDS: Final[tuple[TokenNoiseKind, ...]] = ("boilerplate", "aside", "wrong")
PHRASES: Final = (
    "of course", "as you can see", "let me think about this", "first of all", "in other words", "as we all know",
    "that is a good question", "step by step", "to be clear", "no problem at all", "it is important to note that",
    "I hope that this helps",
)  # fmt: skip

_Draw = Callable[[random.Random], str]

_WORD: Final = re.compile(r"\S+")
_UNIT: Final = re.compile(r"[0-9]+|[^\W\d_]+")
_LONGEST_ASIDE: Final = 6  # words


@dataclass(frozen=True, slots=True)
class _Edit:
    """Replace the characters [start, end) of the response by ``text``, of which [low, high) is noise."""

    start: int
    end: int
    text: str
    low: int
    high: int
    kind: TokenNoiseKind


def plant(
    rows: Sequence[Row],
    ratio: float,
    kinds: Sequence[TokenNoiseKind],
    seed: int,
) -> list[Row]:
    """Return the rows with noise in their responses: ``ratio`` of all characters on average, in equal parts per kind.

    ``boilerplate`` puts a phrase of ``PHRASES`` before a word or at the end, ``aside`` up to six words in a row of
    another row's response; ``wrong`` replaces a word by another of the data, or misses a number. A row's noise depends on the seed,
    its id and the other rows' responses alone. Truths stay as they are; a response without words stays too.

    Raises:
        SourceError: where asides are asked for and no other row has a word to give.
    """
    texts = [row.sample.response for row in rows]
    givers = [at for at, text in enumerate(texts) if text.strip()]
    if "aside" in kinds and len(givers) < 2:
        raise SourceError(
            "noise: kind aside takes words from other rows, and there is none: use more rows, or other kinds"
        )
    words = sorted({unit for text in texts for unit in _UNIT.findall(text) if not unit.isdigit()})
    added = sum(kind != "wrong" for kind in kinds) / len(kinds)
    done = []
    for at, row in enumerate(rows):
        text = texts[at]
        # Inserted text makes the response longer, so its share is smaller: r = m / (n + added * m).
        budget = ratio * len(text) / (1 - added * ratio) / len(kinds)
        edits: list[_Edit] = []
        for kind in kinds:
            rng = random.Random(f"{seed}:{row.sample.id}:{kind}")
            if kind == "wrong":
                edits += _wrong(text, budget, words, rng)
            elif kind == "boilerplate":
                edits += _inserted(text, budget, kind, rng, lambda rng: rng.choice(PHRASES))
            else:
                edits += _inserted(text, budget, kind, rng, _asides(texts, givers, at))
        done.append(_edited(row, text, edits))
    return done


def _wanted(budget: float, size: int, rng: random.Random) -> bool:
    """Decide at random whether a piece of ``size`` is inserted, so that the mean over rows equals ``budget``."""
    return size <= budget or rng.random() < budget / size


def _inserted(
    text: str, budget: float, kind: TokenNoiseKind, rng: random.Random, draw: _Draw
) -> list[_Edit]:
    starts = [found.start() for found in _WORD.finditer(text)]
    end = len(text.rstrip())
    edits: list[_Edit] = []
    while starts and budget > 0:
        place = rng.choice([*starts, end])
        piece = f" {draw(rng)}" if place == end else f"{draw(rng)} "
        if _wanted(budget, len(piece), rng):
            edits.append(_Edit(place, place, piece, 0, len(piece), kind))
        budget -= len(piece)
    return edits


def _asides(texts: Sequence[str], givers: Sequence[int], own: int) -> _Draw:
    def draw(rng: random.Random) -> str:
        while (other := rng.choice(givers)) == own:
            pass
        words = texts[other].split()
        size = rng.randint(1, min(_LONGEST_ASIDE, len(words)))
        first = rng.randrange(len(words) - size + 1)
        return " ".join(words[first : first + size])

    return draw


def _wrong(text: str, budget: float, words: Sequence[str], rng: random.Random) -> list[_Edit]:
    units = list(_UNIT.finditer(text))
    rng.shuffle(units)
    edits: list[_Edit] = []
    for unit in units:
        if budget <= 0:
            break
        old = unit.group()
        if old.isdigit():
            new = missed(old, rng)
        else:
            others = [word for word in rng.sample(words, min(2, len(words))) if word != old]
            if not others:
                continue
            new = others[0]
        # In a wrong number, only the changed digits are noise.
        low, high = _changed(old, new) if old.isdigit() else (0, len(new))
        if _wanted(budget, high - low, rng):
            edits.append(_Edit(unit.start(), unit.end(), new, low, high, "wrong"))
        budget -= high - low
    return edits


def _changed(old: str, new: str) -> tuple[int, int]:
    """The span of ``new`` without the prefix and suffix it shares with ``old``; never empty."""
    shorter = min(len(old), len(new))
    low = next((i for i in range(shorter) if old[i] != new[i]), shorter)
    same = next((i for i in range(shorter - low) if old[-1 - i] != new[-1 - i]), shorter - low)
    high = len(new) - same
    return (low, high) if high > low else (max(0, low - 1), max(1, low))


def _edited(row: Row, text: str, edits: Sequence[_Edit]) -> Row:
    parts: list[str] = []
    spans: list[NoiseSpan] = []
    size, reached = 0, 0
    # An insertion before a word precedes the replacement of that word.
    for edit in sorted(edits, key=lambda edit: (edit.start, edit.end)):
        before = text[reached : edit.start]
        size += len(before)
        spans.append(NoiseSpan(size + edit.low, size + edit.high, edit.kind))
        parts += [before, edit.text]
        size += len(edit.text)
        reached = edit.end
    message = replace(row.sample.messages[-1], content="".join((*parts, text[reached:])))
    sample = replace(row.sample, messages=(*row.sample.context, message)) if spans else row.sample
    return replace(row, sample=sample, noise=tuple(spans))
