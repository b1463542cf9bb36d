"""The task world of ``tiny``: what its questions are, what is true, and who may see which question.

Two families. ``add`` is plain addition of two numbers of up to four digits. ``group`` is a made-up
operator word with a hidden offset: ``mip 37`` is 37 plus whatever ``mip`` stands for. The groups are the
fine-tuning domain, and come in three kinds by what pretraining shows of them:

* ``known``: direct answers and worked steps;
* ``reasoned``: worked steps only, so that steps know what a direct answer does not;
* ``new``: nothing at all.

Every problem has a canonical key (``a+b`` and ``b+a`` share one), and the hash of the key alone decides its
split. No question can therefore be in two of pretrain, train, dev and test.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

Split = Literal["pretrain", "train", "dev", "test"]
Family = Literal["add", "group"]
Kind = Literal["plain", "known", "reasoned", "new", "novel"]

KNOWN: Final = (
    "mip", "dov", "lar", "quem", "tosk", "zel", "brin", "fup", "hode", "gath", "nuv", "perk",
)  # fmt: skip
REASONED: Final = ("siro", "wex", "yom", "cald", "jit")
NEW: Final = ("vant", "olb", "reku")
# Words whose offset is drawn anew in every example: only the neighbours in the prompt can tell it.
NOVEL: Final = (
    "abi", "beln", "cuth", "dag", "efo", "fiss", "gol", "hirn", "iva", "jupe", "kesh", "lom",
    "mard", "neb", "osk", "pram", "qua", "rilt", "sud", "tev", "ulm", "vock", "wip", "xan",
)  # fmt: skip

OPERANDS: Final = range(10, 1000)
MAX_ADDEND: Final = 9999
# Cumulative upper bounds on the hash of a key, read as a fraction of one.
_BOUNDS: Final[tuple[tuple[Split, float], ...]] = (
    ("pretrain", 0.60),
    ("train", 0.72),
    ("dev", 0.78),
    ("test", 1.0),
)


def _draw_offsets() -> dict[str, int]:
    """Give each group of the domain an offset of its own, always the same ones."""
    words = (*KNOWN, *REASONED, *NEW)
    return dict(
        zip(
            words,
            random.Random("nfilter-tiny offsets 1").sample(range(12, 99), len(words)),
            strict=True,
        )
    )


OFFSETS: Final = _draw_offsets()


@dataclass(frozen=True, slots=True)
class Problem:
    """One question: ``left`` plus ``right``, where a group's ``right`` is its hidden offset."""

    family: Family
    kind: Kind
    word: str
    left: int
    right: int

    @property
    def key(self) -> str:
        """The canonical key, equal for two ways to ask the same thing."""
        if self.family == "add":
            low, high = sorted((self.left, self.right))
            return f"add {low} {high}"
        return f"group {self.word} {self.left}"

    @property
    def question(self) -> str:
        """The question as a user asks it."""
        return f"{self.left}+{self.right}" if self.family == "add" else f"{self.word} {self.left}"

    @property
    def answer(self) -> str:
        """The true answer."""
        return str(self.left + self.right)

    @property
    def split(self) -> Split:
        """The only split that may hold this question."""
        return split_of(self.key)


def _fraction(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def split_of(key: str) -> Split:
    """The split of a canonical key."""
    place = _fraction(f"split {key}")
    return next(name for name, bound in _BOUNDS if place < bound)


def group(word: str, operand: int) -> Problem:
    """The problem of one of the domain's groups."""
    kind: Kind = "known" if word in KNOWN else "reasoned" if word in REASONED else "new"
    return Problem("group", kind, word, operand, OFFSETS[word])


def draw_group(rng: random.Random, words: tuple[str, ...], split: Split) -> Problem:
    """A random question about one of ``words`` from ``split``."""
    while True:
        problem = group(rng.choice(words), rng.choice(OPERANDS))
        if problem.split == split:
            return problem


def draw_novel(rng: random.Random, word: str, offset: int) -> Problem:
    """A question about a word outside the domain, whose offset the caller has drawn."""
    return Problem("group", "novel", word, rng.choice(OPERANDS), offset)


def draw_addition(rng: random.Random, split: Split) -> Problem:
    """A random addition from ``split``; the two lengths are drawn first, so that short ones occur."""
    while True:
        left, right = (rng.randint(0, 10 ** rng.randint(1, 4) - 1) for _ in range(2))
        problem = Problem("add", "plain", "+", left, right)
        if problem.split == split:
            return problem


@cache
def _domain(split: Split) -> tuple[Problem, ...]:
    problems = (group(word, operand) for word in OFFSETS for operand in OPERANDS)
    # Ordered by a second hash: any prefix is a random sample, and every group is in it.
    return tuple(
        sorted((p for p in problems if p.split == split), key=lambda p: _fraction(f"order {p.key}"))
    )


def domain(split: Split) -> Iterator[Problem]:
    """Every question of the fine-tuning domain in ``split``, in a fixed random order."""
    return iter(_domain(split))


def rows(split: Literal["train", "dev", "test"], n: int | None = None) -> list[dict[str, str]]:
    """The first ``n`` rows of the domain's ``split`` (all by default): id, question and true answer.

    Raises:
        ValueError: ``n`` is negative or more than the split has.
    """
    problems = _domain(split)
    if n is not None and not 0 <= n <= len(problems):
        raise ValueError(f"split {split!r} has {len(problems)} rows, so n={n} is out of range")
    return [
        {
            "id": "tiny-" + hashlib.sha256(problem.key.encode()).hexdigest()[:12],
            "question": problem.question,
            "answer": problem.answer,
        }
        for problem in problems[:n]
    ]


def wrong_number(rng: random.Random, true: str) -> str:
    """A wrong number close to ``true``: a near miss or one changed digit, of the same length."""
    while True:
        if rng.random() < 0.5:
            wrong = str(int(true) + rng.choice((-1, 1)) * rng.randint(1, 12))
        else:
            place = rng.randrange(len(true))
            wrong = true[:place] + rng.choice("0123456789") + true[place + 1 :]
        if wrong != true and len(wrong) == len(true) and str(int(wrong)) == wrong:
            return wrong
