"""One question of the world, and its split."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, Protocol

Split = Literal["pretrain", "train", "neighbors", "dev", "test"]
SPLITS: Final[tuple[Split, ...]] = ("pretrain", "train", "neighbors", "dev", "test")
# What pretraining shows of the required fact: answers and steps (known), steps only (reasoned), nothing (new). "plain" needs
# no fact; the fact of "novel" is drawn per example, so that only the prompt contains it.
Kind = Literal["plain", "known", "reasoned", "new", "novel"]

# Cumulative upper bounds on the hash of a key, read as a fraction of one.
_BOUNDS: Final[tuple[tuple[Split, float], ...]] = (
    ("pretrain", 0.60),
    ("train", 0.70),
    ("neighbors", 0.75),
    ("dev", 0.80),
    ("test", 1.0),
)


@dataclass(frozen=True, slots=True)
class Problem:
    """A question with its true answer and steps.

    ``key`` is canonical: equal for all ways to ask the same question. ``group`` is the word whose fact the answer needs, or empty;
    ``parts`` are specific to the family.
    """

    family: str
    kind: Kind
    group: str
    parts: tuple[str | int, ...]
    key: str
    question: str
    answer: str
    steps: str

    @property
    def split(self) -> Split:
        """The only split that may contain this question."""
        return split_of(self.key)


class Family(Protocol):
    """One kind of question."""

    name: str

    def draw(self, rng: random.Random, kinds: tuple[Kind, ...]) -> Problem:
        """Draw a question of any split that needs a fact of one of ``kinds``."""

    def candidates(self) -> Iterable[Problem]:
        """Return the questions that datasets choose from, always the same."""

    def slip(self, rng: random.Random, problem: Problem) -> tuple[str, str]:
        """Return steps with one fault, and the resulting wrong answer."""

    def wrong(self, rng: random.Random, problem: Problem) -> str:
        """Return a wrong answer without steps, equally likely among plausible ones."""


class FactFamily(Family, Protocol):
    """One kind of question that needs a fact about a made-up word."""

    def novel(self, rng: random.Random) -> Problem:
        """Draw a question with a new fact."""

    def like(self, rng: random.Random, problem: Problem) -> Problem:
        """Return another question that needs the same fact."""


def fraction(text: str) -> float:
    """Return the SHA-256 of ``text`` as a number from 0 to 1."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def split_of(key: str) -> Split:
    """Return the split of a canonical key."""
    place = fraction(f"split 2 {key}")
    return next(name for name, bound in _BOUNDS if place < bound)


def made_up_word(rng: random.Random) -> str:
    """Return a made-up word of one or two syllables, three to five letters."""
    while True:
        word = "".join(
            rng.choice("bdfghjklmnprstvz") + rng.choice("aeiou") + rng.choice(("", *"klmnrst"))
            for _ in range(rng.randint(1, 2))
        )
        if 3 <= len(word) <= 5:
            return word
