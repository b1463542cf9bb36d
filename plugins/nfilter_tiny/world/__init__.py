"""The task world of ``tiny``: what its questions are, what is true, and who may see which question.

Seven families. Five make up the fine-tuning domain ``tasks``, whose answers are compared word for word; ``say`` is
free text, a domain of its own; ``hop`` was trained and not learned, and no data set has it. Some answers need a fact about a made-up word, and pretraining shows each fact in one
of three ways: in direct answers and worked steps (``known``), in worked steps only (``reasoned``), or not (``new``).

Every problem has a canonical key (``a+b`` and ``b+a`` share one), and the hash of the key alone decides its split.
No question can therefore be in two of pretrain, train, neighbors, dev and test.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from functools import cache
from typing import Final, Literal

from nfilter_tiny.world.numbers import Addition, Order, Shift
from nfilter_tiny.world.problem import SPLITS, Family, Kind, Problem, Split, fraction, split_of
from nfilter_tiny.world.texts import Date, Hop, Hue, Say

Domain = Literal["tasks", "say"]

DOMAINS: Final[tuple[Domain, ...]] = ("tasks", "say")
FAMILIES: Final[Mapping[str, Family]] = {
    family.name: family for family in (Shift(), Hue(), Date(), Order(), Hop(), Addition(), Say())
}
# One round of a domain's rows: any twenty rows in a row hold every family in these shares.
_ROUND: Final[Mapping[Domain, tuple[str, ...]]] = {
    "tasks": (
        "shift",
        "hue",
        "date",
        "shift",
        "order",
        "shift",
        "add",
        "hue",
        "shift",
        "date",
        "shift",
        "hue",
        "add",
        "shift",
        "order",
        "shift",
        "date",
        "hue",
        "shift",
        "add",
    ),
    "say": ("say",),
}

__all__ = [
    "DOMAINS", "FAMILIES", "SPLITS", "Domain", "Family", "Kind", "Problem", "Split", "draw", "id_of", "problems", "rows",
    "split_of",
]  # fmt: skip


def draw(rng: random.Random, family: str, kinds: tuple[Kind, ...], split: Split) -> Problem:
    """A random question of ``family`` from ``split`` that needs a fact of one of ``kinds``, or none."""
    while True:
        problem = FAMILIES[family].draw(rng, kinds)
        if problem.split == split:
            return problem


@cache
def _of_family(family: str) -> Mapping[Split, tuple[Problem, ...]]:
    found: dict[Split, dict[str, Problem]] = {split: {} for split in SPLITS}
    for problem in FAMILIES[family].candidates():
        found[problem.split].setdefault(problem.key, problem)
    del found["pretrain"]  # by far the largest, and drawn rather than listed
    # Ordered by a second hash: any prefix is a random sample, and every word is in it.
    return {
        split: tuple(sorted(each.values(), key=lambda p: fraction(f"order 2 {p.key}")))
        for split, each in found.items()
    }


@cache
def problems(split: Split, domain: Domain = "tasks") -> tuple[Problem, ...]:
    """Every question of ``domain`` in ``split``, families in turn, until one of them has no more."""
    turns = _ROUND[domain]
    queues = {family: iter(_of_family(family)[split]) for family in dict.fromkeys(turns)}
    out: list[Problem] = []
    while True:
        for family in turns:
            problem = next(queues[family], None)
            if problem is None:
                return tuple(out)
            out.append(problem)


def id_of(problem: Problem) -> str:
    """The id of a question's row."""
    return "tiny-" + hashlib.sha256(problem.key.encode()).hexdigest()[:12]


def rows(
    split: Literal["train", "dev", "test"], n: int | None = None, domain: Domain = "tasks"
) -> list[dict[str, str]]:
    """The first ``n`` rows of the domain's ``split`` (all by default): id, family, question and true answer.

    Raises:
        ValueError: ``n`` is negative or more than the split has.
    """
    found = problems(split, domain)
    if n is not None and not 0 <= n <= len(found):
        raise ValueError(f"split {split!r} has {len(found)} rows, so n={n} is out of range")
    return [
        {"id": id_of(p), "family": p.family, "question": p.question, "answer": p.answer}
        for p in found[:n]
    ]
