"""Gates on new samples, without a model: key terms, repetition, similarity to the parents, near duplicates, rules (ENTP)."""

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

from nfilter import JSON, FloatArray, Proportion, StageConfig
from nfilter_entp.purging.rules_form import Empty, empty
from nfilter_entp.purging.rules_words import Template, template
from nfilter_entp.purging.texts import Text, plain, words_of

Rule = Literal["empty", "template", "refusal"]

_BUCKETS = 2**20
_GRAM = 4
# English only; in other languages rarity alone selects key terms.
_STOP = """
a about above after again all also an and any are as at be because been before below between both but by can could
did do does doing down during each few following for from further give given had has have having he her here hers
him his how i if in into is it its just list make may me more most must my no nor not now of off on once one only or
other our out over own please same she should so some such than that the their them then there these they this those
through to too under until up us use using very was we were what when where which while who whom why will with would
write you your
"""
_STOP_WORDS = frozenset(_STOP.split())
_SHORT = 200  # maximum characters of a refusal
_REFUSAL = re.compile(
    r"\W{0,3}(?:(?:(?:i'm|i am|we're|we are) )?(?:very |so |really )?(?:sorry|afraid)|i apologi[sz]e|my apologies|unfortunately)?[,.!:;]? ?"
    r"(?:but |that )?(?:as an? [a-z -]{1,40}, )?(?:(?:i|we) (?:can't|cannot|can not)|(?:i'm|i am|we're|we are) (?:unable|not able) to)"
    r" (?:help(?! but\b)|assist|answer|respond|comply|fulfil{1,2}|complete|provide|do that|do this|process)\b",
    re.IGNORECASE,
)


class Gates(StageConfig):
    """Limits. ``key_terms``: minimum share of each parent's key terms in the new instruction. ``repetition``: maximum number of occurrences
    of a four-word run, in instruction or answer. ``likeness``: minimum cosine similarity of the new instruction to each parent's.
    ``near_duplicate``: maximum similarity to a parent's instruction and to those of other new samples. ``rules``: rules on the new
    sample: ``empty`` and ``template`` of ``entp.purge``, and ``refusal`` (the answer refuses).
    """

    key_terms: Proportion = Field(
        default=0.8,
        description="Share of each parent's key terms in the new instruction, at least, 0 to 1.",
    )
    repetition: int = Field(
        default=3,
        ge=1,
        description="Occurrences of a run of four words in instruction or answer, at most.",
    )
    likeness: float = Field(
        default=0.5,
        ge=-1,
        le=1,
        description="Cosine similarity of the new instruction to each parent's, at least, -1 to 1.",
    )
    near_duplicate: float = Field(
        default=0.95,
        ge=-1,
        le=1,
        description="Cosine similarity to a parent's instruction and to other new ones, at most, -1 to 1.",
    )
    rules: tuple[Rule, ...] = Field(
        default=("empty", "template", "refusal"), description="Rules that the new sample must pass."
    )


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate's ``value``, its ``limit``, and whether it ``passed``. A rule has value 1 if it fires, with the reason in ``why``."""

    value: float
    limit: float
    passed: bool
    why: str | None = None

    def to_json(self) -> JSON:
        """Return the note's form."""
        details: dict[str, JSON] = {} if self.why is None else {"why": self.why}
        return {"value": self.value, "limit": self.limit, "passed": self.passed, **details}


class Rarity:
    """Number of texts per word, by a 20-bit hash: 4 MiB for any number of texts."""

    def __init__(self) -> None:
        self.counts = np.zeros(_BUCKETS, dtype=np.int32)

    def add(self, text: str) -> None:
        """Count each word of ``text`` once."""
        self.counts[list({_bucket(word) for word in _words(text)})] += 1

    def key_terms(self, text: str, most: int) -> list[str]:
        """Return the ``most`` rarest words of ``text`` without stop words, in text order; ties by position."""
        words = [word for word in dict.fromkeys(_words(text)) if word not in _STOP_WORDS]
        rarest = sorted(
            range(len(words)), key=lambda index: (self.counts[_bucket(words[index])], index)
        )
        return [words[index] for index in sorted(rarest[:most])]


def missing_terms(terms: Sequence[str], text: str) -> list[str]:
    """Return the ``terms`` that ``text`` lacks; plural and singular are equal."""
    present = {_stem(word) for word in _words(text)}
    return [term for term in terms if _stem(term) not in present]


def recall(terms: Sequence[str], text: str) -> float:
    """Return the share of ``terms`` in ``text``; 1 without terms."""
    return 1.0 - len(missing_terms(terms, text)) / len(terms) if terms else 1.0


def most_repeated(text: str) -> int:
    """Return the count of the most frequent four-word run in ``text``; 0 without one."""
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
    """Apply the gates to one new sample.

    Args:
        terms: key terms of each parent.
        parents: [p, d]; unit vectors of the parents' instructions.
        vector: [d]; unit vector of the new instruction.
        other: highest similarity to a new sample accepted earlier.
    """
    kept_terms = min((recall(each, instruction) for each in terms), default=1.0)
    repeated = max(most_repeated(instruction), most_repeated(answer))
    similarity = parents.astype(np.float64) @ vector.astype(np.float64)
    nearest = max(float(similarity.max()), other)
    return {
        "key_terms": _at_least(kept_terms, limits.key_terms),
        "repetition": _at_most(repeated, limits.repetition),
        "likeness": _at_least(float(similarity.min()), limits.likeness),
        "near_duplicate": _at_most(nearest, limits.near_duplicate),
        **_apply_rules(limits, instruction, answer),
    }


def _apply_rules(limits: Gates, instruction: str, answer: str) -> dict[str, Gate]:
    """Apply the rules to the new sample as a row."""
    text = Text(answer, instruction, instruction, instruction)
    reasons = {name: _RULES[name](text) for name in limits.rules}
    return {
        name: Gate(float(why is not None), 0.0, why is None, why) for name, why in reasons.items()
    }


def failure_reason(gates: Mapping[str, Gate]) -> str | None:
    """Return the gates that failed, each with its numbers or reason; None if all passed."""
    failed = [
        f"{name}: {gate.why}"
        if gate.why is not None
        else f"{name} is {gate.value:g}, {'under' if gate.value < gate.limit else 'over'} {gate.limit:g}"
        for name, gate in gates.items()
        if not gate.passed
    ]
    return "; ".join(failed) or None


def _refusal(text: Text) -> str | None:
    """Return the reason if a short answer is a refusal; a longer answer may refuse one part and do the rest."""
    response = " ".join(text.response.replace("’", "'").split())
    match = _REFUSAL.match(response) if len(response) <= _SHORT else None
    return f"the answer is a refusal: {response[:60]!r}" if match else None


_RULES: Mapping[str, Callable[[Text], str | None]] = {
    "empty": lambda text: empty(text, Empty()),
    "template": lambda text: template(text, Template()),
    "refusal": _refusal,
}


def _at_least(value: float, limit: float) -> Gate:
    value = round(value, 6)
    return Gate(value, limit, value >= limit)


def _at_most(value: float, limit: float) -> Gate:
    value = round(value, 6)
    return Gate(value, limit, value <= limit)


def _words(text: str) -> list[str]:
    return words_of(plain(text))


def _bucket(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "surrogatepass")) % _BUCKETS


def _stem(word: str) -> str:
    """Strip the plural and a final e, so that "make" and "makes" are equal."""
    if word.endswith("es") and len(word) >= 5:
        word = word[:-2]
    elif word.endswith("s") and not word.endswith("ss") and len(word) >= 4:
        word = word[:-1]
    return word[:-1] if word.endswith("e") and len(word) >= 4 else word
