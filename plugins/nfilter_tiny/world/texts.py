"""Families about words: a word's color, two hops along facts, calendar days, and a sentence to write."""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import pairwise
from typing import Final

from nfilter_tiny.world.problem import Kind, Problem, fraction
from nfilter_tiny.world.words import (
    COLORS,
    DAYS,
    HUES,
    MONTHS,
    NODES,
    PEOPLE,
    PLACE_OF,
    PLACES,
    THINGS,
    kind_of,
    novel_word,
    word_of,
)

_NUMBERS: Final = range(10, 1000)
_POOL: Final = 16_000
_LONGEST: Final = 60  # maximum number of days to add


class Hue:
    """``hue zor 512``: the color of ``zor``, a fact to recall; the number is irrelevant."""

    name = "hue"

    def make(self, word: str, number: int, color: str, kind: Kind) -> Problem:
        """Return the question for ``word``, whose color is ``color``."""
        return Problem(
            self.name, kind, word, (number,), f"hue {word} {number}", f"hue {word} {number}", color, f"{word} is {color}"
        )  # fmt: skip

    def draw(self, rng: random.Random, kinds: tuple[Kind, ...]) -> Problem:
        """Draw a word of one of ``kinds`` and a number."""
        word = word_of(self.name, rng, kinds)
        return self.make(word, rng.choice(_NUMBERS), HUES[word], kind_of(self.name, word))

    def candidates(self) -> Iterable[Problem]:
        """Return every word with every number."""
        return (
            self.make(word, number, color, kind_of(self.name, word))
            for word, color in HUES.items()
            for number in _NUMBERS
        )

    def slip(self, rng: random.Random, problem: Problem) -> tuple[str, str]:
        """State another color."""
        color = self.wrong(rng, problem)
        return f"{problem.group} is {color}", color

    def wrong(self, rng: random.Random, problem: Problem) -> str:
        """Return another color, all equally likely."""
        return rng.choice([color for color in COLORS if color != problem.answer])

    def novel(self, rng: random.Random) -> Problem:
        """Draw a word with a new color."""
        return self.make(novel_word(rng), rng.choice(_NUMBERS), rng.choice(COLORS), "novel")

    def like(self, rng: random.Random, problem: Problem) -> Problem:
        """Return the same word with another number."""
        return self.make(problem.group, rng.choice(_NUMBERS), problem.answer, problem.kind)


class Hop:
    """``fen tig, ulm ped, tig rok, ped sav from fen``: two steps along the listed pairs."""

    name = "hop"

    def make(self, chains: tuple[tuple[str, ...], ...], links: tuple[str, ...]) -> Problem:
        """Return the question about the first of ``chains``; ``links`` are all pairs in display order."""
        start, middle, end = chains[0]
        return Problem(
            self.name, "plain", "", (start, middle, end, *(node for chain in chains[1:] for node in chain)),
            f"hop {start} {', '.join(sorted(links))}", f"{', '.join(links)} from {start}", end,
            f"{start} {middle} {end}",
        )  # fmt: skip

    def draw(self, rng: random.Random, kinds: tuple[Kind, ...]) -> Problem:
        """Draw three chains of three nodes, with shuffled links."""
        nodes = rng.sample(NODES, 9)
        chains = tuple(tuple(nodes[i : i + 3]) for i in (0, 3, 6))
        links = [f"{a} {b}" for chain in chains for a, b in pairwise(chain)]
        rng.shuffle(links)
        return self.make(chains, tuple(links))

    def candidates(self) -> Iterable[Problem]:
        """Return a seeded sample."""
        rng = random.Random("nfilter-tiny hop 2")
        return (self.draw(rng, ()) for _ in range(_POOL))

    def slip(self, rng: random.Random, problem: Problem) -> tuple[str, str]:
        """Start the second hop from another node."""
        start, middle, *_ = problem.parts
        wrong = self.wrong(rng, problem)
        return f"{start} {middle} {wrong}", wrong

    def wrong(self, rng: random.Random, problem: Problem) -> str:
        """Return another node of the question."""
        return str(rng.choice([part for part in problem.parts[1:] if part != problem.answer]))


class Date:
    """``17 mar +12``: the date that many days later, in a repeating year of 365 days."""

    name = "date"

    def make(self, day: int, month: str, days: int) -> Problem:
        """Return the question ``day month +days``."""
        steps, answer = self._count(day, month, days)
        question = f"{day} {month} +{days}"
        return Problem(
            self.name, "plain", "", (day, month, days), f"date {question}", question, answer, steps
        )

    def _count(
        self, day: int, month: str, days: int, off: int = 0, length: int = 0
    ) -> tuple[str, str]:
        """Return steps and answer; ``off`` and ``length`` are faults added to the first sum and to the first month's length."""
        names = list(MONTHS)
        at, total = names.index(month), day + days + off
        size = MONTHS[month] + length
        steps = [f"{month} {size}: {day}+{days}={total}"]
        while total > size:
            at = (at + 1) % 12
            steps.append(f"{total}-{size}={total - size} {names[at]} {MONTHS[names[at]]}")
            total, size = total - size, MONTHS[names[at]]
        return " ".join(steps), f"{total} {names[at]}"

    def draw(self, rng: random.Random, kinds: tuple[Kind, ...]) -> Problem:
        """Draw any day of the year and up to two months."""
        month = rng.choice(list(MONTHS))
        return self.make(rng.randint(1, MONTHS[month]), month, rng.randint(1, _LONGEST))

    def candidates(self) -> Iterable[Problem]:
        """Return every day of the year with every number of days."""
        return (
            self.make(day, month, days)
            for month, length in MONTHS.items()
            for day in range(1, length + 1)
            for days in range(1, _LONGEST + 1)
        )

    def slip(self, rng: random.Random, problem: Problem) -> tuple[str, str]:
        """Use a wrong sum, or a wrong length of the first month."""
        day, month, days = int(problem.parts[0]), str(problem.parts[1]), int(problem.parts[2])
        if day + days > MONTHS[month] + 1 and rng.random() < 0.5:
            return self._count(day, month, days, length=-1 if MONTHS[month] == 31 else 1)
        return self._count(day, month, days, off=rng.choice((-1, 1, 10)) if days > 1 else 1)

    def wrong(self, rng: random.Random, problem: Problem) -> str:
        """Return a date some days off, in the same or an adjacent month."""
        day, month = problem.answer.split()
        names = list(MONTHS)
        while True:
            other = names[(names.index(month) + rng.choice((0, 0, 0, -1, 1))) % 12]
            moved = int(day) + rng.choice((0, -1, 1, -2, 2, 3, 10, -10))
            wrong = f"{moved} {other}"
            if wrong != problem.answer and 1 <= moved <= MONTHS[other]:
                return wrong


class Say:
    """``say anna lamp brin mon``: the sentence for it. ``brin`` stands for a place; the day may come first or last."""

    name = "say"

    def make(self, person: str, thing: str, word: str, day: str, place: str, kind: Kind) -> Problem:
        """Return the question for these words, with ``word`` standing for ``place``."""
        question = f"say {person} {thing} {word} {day}"
        return Problem(
            self.name, kind, word, (person, thing, day, place), question, question,
            self.sentence(question, person, thing, place, day), f"{word} is {place}",
        )  # fmt: skip

    def sentence(self, question: str, person: str, thing: str, place: str, day: str) -> str:
        """Return one of two wordings, chosen by the question's hash: correct answers need not be equal strings."""
        body = f"{person} takes the {thing} {place}"
        if fraction(f"wording 2 {question}") < 0.5:
            return f"on {DAYS[day]} {body}."
        return f"{body} on {DAYS[day]}."

    def draw(self, rng: random.Random, kinds: tuple[Kind, ...]) -> Problem:
        """Draw a word of one of ``kinds``, and the rest at random."""
        word = word_of(self.name, rng, kinds)
        return self._around(rng, word, PLACE_OF[word], kind_of(self.name, word))

    def _around(self, rng: random.Random, word: str, place: str, kind: Kind) -> Problem:
        return self.make(
            rng.choice(PEOPLE), rng.choice(THINGS), word, rng.choice(list(DAYS)), place, kind
        )

    def candidates(self) -> Iterable[Problem]:
        """Return every sentence."""
        return (
            self.make(person, thing, word, day, place, kind_of(self.name, word))
            for word, place in PLACE_OF.items()
            for person in PEOPLE
            for thing in THINGS
            for day in DAYS
        )

    def slip(self, rng: random.Random, problem: Problem) -> tuple[str, str]:
        """Use another place."""
        person, thing, day, place = (str(part) for part in problem.parts)
        other = rng.choice([p for p in PLACES if p != place])
        return (
            f"{problem.group} is {other}",
            self.sentence(problem.question, person, thing, other, day),
        )

    def wrong(self, rng: random.Random, problem: Problem) -> str:
        """Use another place, person, thing or day."""
        parts = [str(part) for part in problem.parts]
        at = rng.randrange(4)
        pool: tuple[str, ...] = (PEOPLE, THINGS, tuple(DAYS), PLACES)[at]
        parts[at] = rng.choice([value for value in pool if value != parts[at]])
        person, thing, day, place = parts
        return self.sentence(problem.question, person, thing, place, day)

    def novel(self, rng: random.Random) -> Problem:
        """Draw a word with a new place."""
        return self._around(rng, novel_word(rng), rng.choice(PLACES), "novel")

    def like(self, rng: random.Random, problem: Problem) -> Problem:
        """Return another sentence with the same word."""
        return self._around(rng, problem.group, str(problem.parts[3]), problem.kind)
