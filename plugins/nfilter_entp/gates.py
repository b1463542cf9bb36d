"""Gates that no model passes by its word: key terms, repetition, likeness to the parents, near duplicates, rules (ENTP)."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from nfilter import JSON, FloatArray, StageConfig
from nfilter_entp.rules_form import Empty, empty
from nfilter_entp.rules_words import Template, template
from nfilter_entp.texts import Text, plain, words_of

Rule = Literal["empty", "template", "refusal"]

_BUCKETS = 2**20
_GRAM = 4
# English alone: in other languages rare words win by their rarity.
_STOP = """
a about above after again all also an and any are as at be because been before below between both but by can could
did do does doing down during each few following for from further give given had has have having he her here hers
him his how i if in into is it its just list make may me more most must my no nor not now of off on once one only or
other our out over own please same she should so some such than that the their them then there these they this those
through to too under until up us use using very was we were what when where which while who whom why will with would
write you your
"""
_STOPPED = frozenset(_STOP.split())
_SHORT = 200  # characters of a refusal
_REFUSAL = re.compile(
    r"\W{0,3}(?:(?:(?:i'm|i am|we're|we are) )?(?:very |so |really )?(?:sorry|afraid)|i apologi[sz]e|my apologies|unfortunately)?[,.!:;]? ?"
    r"(?:but |that )?(?:as an? [a-z -]{1,40}, )?(?:(?:i|we) (?:can't|cannot|can not)|(?:i'm|i am|we're|we are) (?:unable|not able) to)"
    r" (?:help(?! but\b)|assist|answer|respond|comply|fulfil{1,2}|complete|provide|do that|do this|process)\b",
    re.IGNORECASE,
)


class Gates(StageConfig):
    """The limits. ``key_terms``: the least share of each parent's key terms in the new instruction. ``repetition``: how often a
    run of four words may be there, in the instruction or in the answer. ``likeness``: the least cosine similarity of the new
    instruction to each parent's. ``near_duplicate``: the most to a parent's, and to those of other new samples. ``rules``
    look at the new sample as a row: ``empty`` and ``template`` of ``entp.purge``, and ``refusal``, an answer that is one.
    """

    key_terms: float = Field(default=0.8, ge=0, le=1)
    repetition: int = Field(default=3, ge=1)
    likeness: float = Field(default=0.5, ge=-1, le=1)
    near_duplicate: float = Field(default=0.95, ge=-1, le=1)
    rules: tuple[Rule, ...] = ("empty", "template", "refusal")


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate's ``value``, its ``limit``, and whether it ``passed``. A rule has 1 where it fires, and says ``why``."""

    value: float
    limit: float
    passed: bool
    why: str | None = None

    def to_json(self) -> JSON:
        """As a note has it."""
        known: dict[str, JSON] = {} if self.why is None else {"why": self.why}
        return {"value": self.value, "limit": self.limit, "passed": self.passed, **known}


class Rarity:
    """In how many texts a word occurs, by a hash of 20 bits: 4 MiB however many texts there are."""

    def __init__(self) -> None:
        self.counts = np.zeros(_BUCKETS, dtype=np.int32)

    def add(self, text: str) -> None:
        """Count each word of ``text`` once."""
        self.counts[list({_bucket(word) for word in _words(text)})] += 1

    def key_terms(self, text: str, most: int) -> list[str]:
        """The ``most`` rarest words of ``text`` that are no stop words, in the order of the text, ties by place."""
        words = [word for word in dict.fromkeys(_words(text)) if word not in _STOPPED]
        rarest = sorted(range(len(words)), key=lambda at: (self.counts[_bucket(words[at])], at))
        return [words[at] for at in sorted(rarest[:most])]


def missing(terms: Sequence[str], text: str) -> list[str]:
    """Those of ``terms`` that ``text`` lacks; "cats" stands for "cat" and the other way round."""
    there = {_stem(word) for word in _words(text)}
    return [term for term in terms if _stem(term) not in there]


def recall(terms: Sequence[str], text: str) -> float:
    """The share of ``terms`` in ``text``; 1 where there are none."""
    return 1.0 - len(missing(terms, text)) / len(terms) if terms else 1.0


def most_repeated(text: str) -> int:
    """How often the most frequent run of four words occurs in ``text``; 0 where there is none."""
    words = _words(text)
    grams = Counter(zip(*(words[start:] for start in range(_GRAM)), strict=False))
    return max(grams.values(), default=0)


def judge(
    limits: Gates,
    terms: Iterable[Sequence[str]],
    instruction: str,
    answer: str,
    parents: FloatArray,
    vector: npt.NDArray[np.float32],
    other: float,
) -> dict[str, Gate]:
    """The gates of one new sample.

    ``terms`` are the key terms of each parent, ``parents`` [p, d] their instructions' unit vectors, ``vector`` [d] the new
    one's; ``other`` is the highest similarity to a new sample that was accepted before.
    """
    kept = min((recall(each, instruction) for each in terms), default=1.0)
    repeated = max(most_repeated(instruction), most_repeated(answer))
    alike = parents.astype(np.float64) @ vector.astype(np.float64)
    nearest = max(float(alike.max()), other)
    return {
        "key_terms": _least(kept, limits.key_terms),
        "repetition": _most(repeated, limits.repetition),
        "likeness": _least(float(alike.min()), limits.likeness),
        "near_duplicate": _most(nearest, limits.near_duplicate),
        **_ruled(limits, instruction, answer),
    }


def _ruled(limits: Gates, instruction: str, answer: str) -> dict[str, Gate]:
    """What the rules say of the new sample as a row."""
    text = Text(answer, instruction, instruction, instruction)
    found = {name: _RULES[name](text) for name in limits.rules}
    return {
        name: Gate(float(why is not None), 0.0, why is None, why) for name, why in found.items()
    }


def reason(gates: Mapping[str, Gate]) -> str | None:
    """The gates that did not pass, each with its numbers or what it found; None where all did."""
    failed = [
        f"{name}: {gate.why}"
        if gate.why is not None
        else f"{name} is {gate.value:g}, {'under' if gate.value < gate.limit else 'over'} {gate.limit:g}"
        for name, gate in gates.items()
        if not gate.passed
    ]
    return "; ".join(failed) or None


def _refused(text: Text) -> str | None:
    """A short answer that only says that there is none; a longer one may say what it cannot do, and do the rest."""
    said = " ".join(text.response.replace("’", "'").split())
    found = _REFUSAL.match(said) if len(said) <= _SHORT else None
    return f"the answer is a refusal: {said[:60]!r}" if found else None


_RULES: Mapping[str, Callable[[Text], str | None]] = {
    "empty": lambda text: empty(text, Empty()),
    "template": lambda text: template(text, Template()),
    "refusal": _refused,
}


def _least(value: float, limit: float) -> Gate:
    value = round(value, 6)
    return Gate(value, limit, value >= limit)


def _most(value: float, limit: float) -> Gate:
    value = round(value, 6)
    return Gate(value, limit, value <= limit)


def _words(text: str) -> list[str]:
    return words_of(plain(text))


def _bucket(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "surrogatepass")) % _BUCKETS


def _stem(word: str) -> str:
    """A word without its plural and its last e, so that "make" and "makes" are one."""
    if word.endswith("es") and len(word) >= 5:
        word = word[:-2]
    elif word.endswith("s") and not word.endswith("ss") and len(word) >= 4:
        word = word[:-1]
    return word[:-1] if word.endswith("e") and len(word) >= 4 else word
