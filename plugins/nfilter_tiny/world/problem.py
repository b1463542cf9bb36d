"""One question of the world, and which split may hold it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, Protocol

Split = Literal["pretrain", "train", "neighbors", "dev", "test"]
SPLITS: Final[tuple[Split, ...]] = ("pretrain", "train", "neighbors", "dev", "test")
# What pretraining shows of the fact that a question needs: answers and steps, steps alone, or nothing. "plain" needs
# no fact; the fact of "novel" is drawn anew in every example, so that only the prompt can tell it.
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

    ``key`` is canonical: equal for two ways to ask the same thing. ``group`` names the fact that the answer needs
    (a word of the world), empty where it needs none; ``parts`` are the family's own.
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
        """The only split that may hold this question."""
        return split_of(self.key)


class Family(Protocol):
    """One kind of question."""

    name: str

    def draw(self, rng: random.Random, kinds: tuple[Kind, ...]) -> Problem:
        """A random question that needs a fact of one of ``kinds``; of any split."""

    def candidates(self) -> Iterable[Problem]:
        """The questions that the data sets choose from, always the same ones."""

    def slip(self, rng: random.Random, problem: Problem) -> tuple[str, str]:
        """Steps with one fault, and the wrong answer that follows from it."""

    def wrong(self, rng: random.Random, problem: Problem) -> str:
        """A wrong answer, each of the plausible ones as likely, that no reasoning led to."""

    def novel(self, rng: random.Random) -> Problem | None:
        """A question whose fact is drawn anew; None where the family has no facts."""

    def like(self, rng: random.Random, problem: Problem) -> Problem:
        """Another question that needs the same fact, or any other of a family without facts."""


def fraction(text: str) -> float:
    """The SHA-256 of ``text`` as a number from 0 to 1."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def split_of(key: str) -> Split:
    """The split of a canonical key."""
    place = fraction(f"split 2 {key}")
    return next(name for name, bound in _BOUNDS if place < bound)


def made_up_word(rng: random.Random) -> str:
    """A word of one or two made-up syllables, three to five letters."""
    while True:
        word = "".join(
            rng.choice("bdfghjklmnprstvz") + rng.choice("aeiou") + rng.choice(("", *"klmnrst"))
            for _ in range(rng.randint(1, 2))
        )
        if 3 <= len(word) <= 5:
            return word
