"""Families about numbers: addition, words with a hidden offset, and order."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Final

from nfilter_tiny.world.problem import Kind, Problem
from nfilter_tiny.world.words import OFFSETS, kind_of, novel_word, word_of

OPERANDS: Final = range(10, 1000)
_POOL: Final = 16_000  # questions sampled for an unbounded family


def column_sums(left: int, right: int, slip: int | None = None) -> tuple[str, int]:
    """Return the column sums from the last digit to the first, and the resulting number.

    ``slip`` makes the column with that index wrong by one and carries the fault on.
    """
    width = max(len(str(left)), len(str(right)))
    carry, total, sums = 0, 0, []
    for place in range(width):
        a, b = left // 10**place % 10, right // 10**place % 10
        value = a + b + carry
        if place == slip:
            value += 1 if value < 19 else -1
        sums.append(f"{a}+{b}{'+1' if carry else ''}={value}")
        carry, digit = divmod(value, 10)
        total += digit * 10**place
    return " ".join(sums), total + carry * 10**width


def column_differences(left: int, right: int) -> str:
    """Return the column differences of ``left - right`` from the last digit to the first; a borrow is written ``-1``."""
    borrow, parts = 0, []
    for place in range(len(str(left))):
        a, b = left // 10**place % 10, right // 10**place % 10
        parts.append(f"{a}-{b}{'-1' if borrow else ''}={(a - b - borrow) % 10}")
        borrow = int(a - b - borrow < 0)
    return " ".join(parts)


def near_number(rng: random.Random, true: str) -> str:
    """Return a wrong number close to ``true``: a near miss or one changed digit, of the same length."""
    while True:
        if rng.random() < 0.5:
            wrong = str(int(true) + rng.choice((-1, 1)) * rng.randint(1, 12))
        else:
            place = rng.randrange(len(true))
            wrong = true[:place] + rng.choice("0123456789") + true[place + 1 :]
        if wrong != true and len(wrong) == len(true) and str(int(wrong)) == wrong:
            return wrong


class Addition:
    """``583+4417``: addition of up to four digits."""

    name = "add"

    def make(self, left: int, right: int) -> Problem:
        """Return the question ``left + right``."""
        low, high = sorted((left, right))
        return Problem(
            self.name, "plain", "", (left, right), f"add {low} {high}", f"{left}+{right}",
            str(left + right), column_sums(left, right)[0],
        )  # fmt: skip

    def draw(self, rng: random.Random, kinds: tuple[Kind, ...]) -> Problem:
        """Draw the lengths first, so that short numbers occur."""
        left, right = (rng.randint(0, 10 ** rng.randint(1, 4) - 1) for _ in range(2))
        return self.make(left, right)

    def candidates(self) -> Iterable[Problem]:
        """Return a seeded sample."""
        rng = random.Random("nfilter-tiny add 2")
        return (self.draw(rng, ()) for _ in range(_POOL))

    def slip(self, rng: random.Random, problem: Problem) -> tuple[str, str]:
        """Make one column sum wrong by one."""
        left, right = (int(part) for part in problem.parts)
        text, total = column_sums(left, right, rng.randrange(max(len(str(left)), len(str(right)))))
        return text, str(total)

    def wrong(self, rng: random.Random, problem: Problem) -> str:
        """Return a near miss or a changed digit."""
        return near_number(rng, problem.answer)


class Shift:
    """``mip 37``: 37 plus the number that ``mip`` stands for."""

    name = "shift"

    def make(self, word: str, operand: int, offset: int, kind: Kind) -> Problem:
        """Return the question ``word operand``, with ``word`` standing for ``offset``."""
        return Problem(
            self.name, kind, word, (operand, offset), f"shift {word} {operand}", f"{word} {operand}",
            str(operand + offset), f"{word} +{offset}: {column_sums(operand, offset)[0]}",
        )  # fmt: skip

    def draw(self, rng: random.Random, kinds: tuple[Kind, ...]) -> Problem:
        """Draw a word of one of ``kinds`` and an operand."""
        word = word_of(self.name, rng, kinds)
        return self.make(word, rng.choice(OPERANDS), OFFSETS[word], kind_of(self.name, word))

    def candidates(self) -> Iterable[Problem]:
        """Return every word with every operand."""
        return (
            self.make(word, operand, offset, kind_of(self.name, word))
            for word, offset in OFFSETS.items()
            for operand in OPERANDS
        )

    def slip(self, rng: random.Random, problem: Problem) -> tuple[str, str]:
        """Use a wrong offset, or make one column sum wrong by one."""
        operand, offset = (int(part) for part in problem.parts)
        fault = None
        if rng.random() < 0.5:
            offset = rng.choice([n for n in range(12, 99) if n != offset])
        else:
            fault = rng.randrange(max(len(str(operand)), len(str(offset))))
        text, total = column_sums(operand, offset, fault)
        return f"{problem.group} +{offset}: {text}", str(total)

    def wrong(self, rng: random.Random, problem: Problem) -> str:
        """Return a near miss or a changed digit."""
        return near_number(rng, problem.answer)

    def novel(self, rng: random.Random) -> Problem:
        """Draw a word with a new offset."""
        return self.make(novel_word(rng), rng.choice(OPERANDS), rng.randint(12, 98), "novel")

    def like(self, rng: random.Random, problem: Problem) -> Problem:
        """Return the same word with another operand."""
        offset = int(problem.parts[1])
        return self.make(problem.group, rng.choice(OPERANDS), offset, problem.kind)


class Order:
    """``mid 583 12 907 44 350``: the lowest, middle or highest of five numbers."""

    name = "order"

    def make(self, which: str, numbers: tuple[int, ...]) -> Problem:
        """Return the question ``which`` of ``numbers``."""
        ranked = sorted(numbers)
        shown = " ".join(map(str, numbers))
        answer = ranked[("low", "mid", "high").index(which) * 2]
        steps = " ".join(map(str, ranked))
        return Problem(
            self.name, "plain", "", (which, *numbers), f"order {which} {steps}", f"{which} {shown}", str(answer), steps
        )  # fmt: skip

    def draw(self, rng: random.Random, kinds: tuple[Kind, ...]) -> Problem:
        """Draw five distinct numbers below 1000."""
        return self.make(rng.choice(("low", "mid", "high")), tuple(rng.sample(range(1000), 5)))

    def candidates(self) -> Iterable[Problem]:
        """Return a seeded sample."""
        rng = random.Random("nfilter-tiny order 2")
        return (self.draw(rng, ()) for _ in range(_POOL))

    def slip(self, rng: random.Random, problem: Problem) -> tuple[str, str]:
        """Exchange the answer with a neighbour in the sorted list."""
        ranked = sorted(int(part) for part in problem.parts[1:])
        at = ranked.index(int(problem.answer))
        other = at + 1 if at == 0 or (at < 4 and rng.random() < 0.5) else at - 1
        ranked[at], ranked[other] = ranked[other], ranked[at]
        return " ".join(map(str, ranked)), str(ranked[at])

    def wrong(self, rng: random.Random, problem: Problem) -> str:
        """Return another of the five numbers."""
        return rng.choice([str(n) for n in problem.parts[1:] if str(n) != problem.answer])
