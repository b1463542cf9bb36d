"""A scripted model for ``benchmarks.agents``: it reads a question from a prompt, and computes with a tool or by itself.

It is no language model and never sees a true answer. It takes the numbers from the question as the prompt shows it. By
itself it makes a mistake in a step with probability ``slip``; with the calculator it makes none there. With and without the
tool it misreads one number of a question with probability ``misread``. What goes wrong depends on the prompt alone, so that
reviewers with other instructions make other mistakes, and an exchange is a second try.
"""

from __future__ import annotations

import json
import operator
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from nfilter import Completion, ToolCall

Step = tuple[str, str, str]
"""Two operands and what is done with them: a number as text, or ``#1`` for the result of the first step."""
_APPLY: Final[Mapping[str, Callable[[int, int], int]]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
}
_ASKED: Final = re.compile(r"^BEGIN (?P<code>\w+)\n(?P<question>.*?)\nEND (?P=code)$", re.DOTALL | re.MULTILINE)  # fmt: skip
_SUM: Final = re.compile(r"(\d+)\+(\d+)")


@dataclass(frozen=True, slots=True)
class Chain:
    """A kind of word problem: its text, what its numbers are, and the steps that solve it."""

    text: str
    ranges: tuple[tuple[int, int], ...]
    steps: tuple[Step, ...]

    def pattern(self) -> re.Pattern[str]:
        """Return the pattern that finds the numbers in a question of this kind."""
        return re.compile(re.sub(r"\\\{\d\\\}", r"(\\d+)", re.escape(self.text)))


CHAINS: Final = (
    Chain(
        "Mia has {0} boxes with {1} pencils in each. She gives {2} pencils away and buys {3} packs of {4} pencils. "
        "How many pencils has she now?",
        ((12, 40), (13, 60), (17, 90), (11, 30), (12, 25)),
        (("0", "*", "1"), ("#1", "-", "2"), ("3", "*", "4"), ("#2", "+", "#3")),
    ),
    Chain(
        "A bus makes {0} trips a day with {1} passengers on each. On {2} days of the month it does not run, and the month "
        "has {3} days. How many passengers does it carry in the month?",
        ((11, 28), (23, 58), (2, 9), (28, 31)),
        (("3", "-", "2"), ("0", "*", "1"), ("#1", "*", "#2")),
    ),
    Chain(
        "A farm sells {0} crates of apples for {1} dollars each and {2} crates of pears for {3} dollars each. It pays {4} "
        "dollars for the stall. How many dollars are left?",
        ((14, 75), (12, 38), (13, 64), (14, 42), (120, 380)),
        (("0", "*", "1"), ("2", "*", "3"), ("#1", "+", "#2"), ("#3", "-", "4")),
    ),
)  # fmt: skip


def read_steps(question: str) -> tuple[list[str], tuple[Step, ...]] | None:
    """Return the numbers of a question and the steps that solve it; None for any other text."""
    if found := _SUM.fullmatch(question.strip()):
        return list(found.groups()), (("0", "+", "1"),)
    for chain in CHAINS:
        if found := chain.pattern().fullmatch(question.strip()):
            return list(found.groups()), chain.steps
    return None


def expressions(numbers: Sequence[str], steps: Sequence[Step], results: Sequence[int]) -> list[str]:
    """Return the expression of every step that the results so far are enough for."""
    made = []
    for one, sign, other in steps[: len(results) + 1]:
        made.append(f"{_value(one, numbers, results)} {sign} {_value(other, numbers, results)}")
    return made


def _value(name: str, numbers: Sequence[str], results: Sequence[int]) -> str:
    return str(results[int(name[1:]) - 1]) if name.startswith("#") else numbers[int(name)]


def compute(expression: str) -> int:
    """Return the value of an expression of two numbers."""
    one, sign, other = expression.split(" ")
    return _APPLY[sign](int(one), int(other))


@dataclass(frozen=True, slots=True)
class Policy:
    """Answers the messages of a chat request. ``tools``: whether it has the calculator and uses it for every step."""

    tools: bool
    slip: float
    misread: float
    seed: int

    def __call__(self, messages: Sequence[Mapping[str, Any]]) -> Completion:
        """Return a tool call for the next step, or the answer."""
        prompt = str(messages[0]["content"])
        asked = _ASKED.search(prompt)
        read = read_steps(asked["question"]) if asked else None
        if asked is None or read is None:
            return Completion("I cannot read the question.", completion_tokens=5)
        rng = random.Random(f"{self.seed}\x1f{prompt}")
        numbers, steps = read
        if rng.random() < self.misread:
            place = rng.randrange(len(numbers))
            numbers[place] = _near(rng, numbers[place])
        if self.tools:
            results = [
                int(each["content"].split("\n")[0]) for each in messages if each["role"] == "tool"
            ]
            if len(results) < len(steps):
                arguments = json.dumps({"expression": expressions(numbers, steps, results)[-1]})
                call = ToolCall("calculator", arguments, f"call{len(results):05d}")
                return Completion("", completion_tokens=12, tool_calls=(call,))
        else:
            results = []
            for _ in steps:
                value = compute(expressions(numbers, steps, results)[-1])
                results.append(_off(rng, value) if rng.random() < self.slip else value)
        made = expressions(numbers, steps, results)[: len(steps)]
        lines = [f"{each} = {value}" for each, value in zip(made, results, strict=True)]
        text = "\n".join([*lines, f"Answer {asked['code']}: {results[-1]}"])
        return Completion(text, completion_tokens=len(text.split()))


def _near(rng: random.Random, number: str) -> str:
    """Return a number with one digit changed."""
    place = rng.randrange(len(number))
    digit = rng.choice([each for each in "123456789" if each != number[place]])
    return f"{number[:place]}{digit}{number[place + 1 :]}"


def _off(rng: random.Random, value: int) -> int:
    """Return a result with a mistake as in written arithmetic: a carry lost or a digit off."""
    return value + rng.choice((-1, 1)) * rng.choice((1, 2, 10, 100))


def problem(rng: random.Random) -> tuple[str, list[str], tuple[Step, ...]]:
    """Return a random word problem: its question, its numbers and the steps that solve it."""
    chain = rng.choice(CHAINS)
    numbers = [str(rng.randint(*bounds)) for bounds in chain.ranges]
    return chain.text.format(*numbers), numbers, chain.steps


def solution(
    numbers: Sequence[str], steps: Sequence[Step], wrong: random.Random | None = None
) -> str:
    """Return the worked answer; with ``wrong``, one with a wrong step whose result is carried on."""
    bad = wrong.randrange(len(steps)) if wrong is not None else -1
    results: list[int] = []
    lines = []
    for place in range(len(steps)):
        made = expressions(numbers, steps, results)[-1]
        value = compute(made)
        if wrong is not None and place == bad:
            value = _off(wrong, value)
        results.append(value)
        lines.append(f"{made} = {value}")
    return "\n".join([*lines, f"#### {results[-1]}"])
