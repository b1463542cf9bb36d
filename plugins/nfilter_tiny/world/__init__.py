"""The task world of ``tiny``: its questions, the true answers, and the splits.

Seven families. Five form the fine-tuning domain ``tasks``, with answers compared exactly; ``say`` is free text, a separate
domain; ``hop`` was trained but not learned, and no dataset contains it. Some answers need a fact about a made-up word, which
pretraining shows in one of three ways: in direct answers and worked steps (``known``), in worked steps only (``reasoned``), or not
at all (``new``).

Every problem has a canonical key (``a+b`` and ``b+a`` share one), and the hash of the key decides its split. So no question
is in two of pretrain, train, neighbors, dev and test.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from functools import cache
from typing import Final, Literal

from nfilter_tiny.world.numbers import Addition, Order, Shift
from nfilter_tiny.world.problem import (
    SPLITS,
    FactFamily,
    Family,
    Kind,
    Problem,
    Split,
    fraction,
    split_of,
)
from nfilter_tiny.world.texts import Date, Hop, Hue, Say

Domain = Literal["tasks", "say"]

DOMAINS: Final[tuple[Domain, ...]] = ("tasks", "say")
FAMILIES: Final[Mapping[str, Family]] = {
    family.name: family for family in (Shift(), Hue(), Date(), Order(), Hop(), Addition(), Say())
}
FACT_FAMILIES: Final[Mapping[str, FactFamily]] = {
    family.name: family for family in (Shift(), Hue(), Say())
}
# One round of a domain's rows: any twenty consecutive rows contain all families in these shares.
_ROUND: Final[Mapping[Domain, tuple[str, ...]]] = {
    "tasks": (
        "shift", "hue", "date", "shift", "order", "shift", "add", "hue", "shift", "date",
        "shift", "hue", "add", "shift", "order", "shift", "date", "hue", "shift", "add",
    ),
    "say": ("say",),
}  # fmt: skip

__all__ = [
    "DOMAINS", "FACT_FAMILIES", "FAMILIES", "SPLITS", "Domain", "Family", "Kind", "Problem", "Split", "draw", "id_of", "problems", "rows",
    "split_of",
]  # fmt: skip


def draw(rng: random.Random, family: str, kinds: tuple[Kind, ...], split: Split) -> Problem:
    """Return a random question of ``family`` from ``split`` that needs no fact or one of ``kinds``."""
    while True:
        problem = FAMILIES[family].draw(rng, kinds)
        if problem.split == split:
            return problem


@cache
def _of_family(family: str) -> Mapping[Split, tuple[Problem, ...]]:
    found: dict[Split, dict[str, Problem]] = {split: {} for split in SPLITS}
    for problem in FAMILIES[family].candidates():
        found[problem.split].setdefault(problem.key, problem)
    del found["pretrain"]  # by far the largest; sampled instead of listed
    # Ordered by a second hash: any prefix is a random sample with every word.
    return {
        split: tuple(sorted(each.values(), key=lambda p: fraction(f"order 2 {p.key}")))
        for split, each in found.items()
    }


@cache
def problems(split: Split, domain: Domain = "tasks") -> tuple[Problem, ...]:
    """Return the questions of ``domain`` in ``split``, alternating families until one of them is exhausted."""
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
    """Return the row id of a question."""
    return "tiny-" + hashlib.sha256(problem.key.encode()).hexdigest()[:12]


def rows(
    split: Literal["train", "dev", "test"], n: int | None = None, domain: Domain = "tasks"
) -> list[dict[str, str]]:
    """Return the first ``n`` rows of the domain's ``split`` (default: all): id, family, question and true answer.

    Raises:
        ValueError: if ``n`` is negative or exceeds the split.
    """
    found = problems(split, domain)
    if n is not None and not 0 <= n <= len(found):
        raise ValueError(f"split {split!r} has {len(found)} rows, so n={n} is out of range")
    return [
        {"id": id_of(p), "family": p.family, "question": p.question, "answer": p.answer}
        for p in found[:n]
    ]
