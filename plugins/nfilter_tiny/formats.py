"""Every text that ``tiny`` is trained on: prompts from the shipped templates, and replies to them.

Prompts are rendered from the very files in ``prompts/tiny``, so training and use cannot drift apart.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from jinja2 import StrictUndefined, Template
from jinja2.sandbox import SandboxedEnvironment

from nfilter_tiny.world import (
    KNOWN,
    NOVEL,
    REASONED,
    Problem,
    Split,
    draw_addition,
    draw_group,
    draw_novel,
    wrong_number,
)

_PLACES: Final = (
    Path(__file__).resolve().parents[2] / "prompts",  # the repository
    Path(__file__).resolve().parents[1] / "nfilter" / "prompt_files",  # an installed wheel
)
PROMPTS: Final = next((p for p in _PLACES if p.is_dir()), _PLACES[0]) / "tiny"
Skill = Literal["answer", "reason", "reflect", "rereason", "relabel", "review"]
Turn = tuple[str, str]

_ROLE: Final = re.compile(r"^\[(system|user|assistant)\]$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Example:
    """One training conversation: the prompt's turns and the reply that is learned."""

    skill: Skill
    problem: Problem
    turns: tuple[Turn, ...]
    reply: str


@cache
def _blocks(path: Path) -> tuple[tuple[str, Template], ...]:
    env = SandboxedEnvironment(
        undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True
    )
    parts = _ROLE.split(path.read_text(encoding="utf-8"))
    if env.from_string(parts[0]).render().strip():
        raise ValueError(
            f"{path}: text before the first role block; put it under [user] or in a comment"
        )
    return tuple(
        (role, env.from_string(body.strip()))
        for role, body in zip(parts[1::2], parts[2::2], strict=True)
    )


def prompt(name: str, query: str, **variables: Any) -> tuple[Turn, ...]:
    """The turns of template ``name`` for ``query``."""
    values: Mapping[str, Any] = {
        "query": query, "system": None, "history": [], "options": None, "kind": "number",
        "reflection": None, "reasoning": None, **variables,
    }  # fmt: skip
    return tuple(
        (role, body.render(values).strip()) for role, body in _blocks(PROMPTS / f"{name}.jinja")
    )


def columns(left: int, right: int, slip: int | None = None) -> tuple[str, int]:
    """Column sums from the last digit to the first, and the number that they spell.

    ``slip`` makes the column of that index wrong by one, and carries the fault through.
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


def steps(problem: Problem) -> str:
    """The true worked steps of a problem."""
    text, _ = columns(problem.left, problem.right)
    return text if problem.family == "add" else f"{problem.word} +{problem.right}: {text}"


def wrong_steps(rng: random.Random, problem: Problem) -> tuple[str, str]:
    """Worked steps with one fault, and the wrong answer that follows from it."""
    head, right, slip = "", problem.right, None
    if problem.family == "group" and rng.random() < 0.5:
        right = rng.choice([n for n in range(12, 99) if n != right])
    else:
        slip = rng.randrange(max(len(str(problem.left)), len(str(problem.right))))
    if problem.family == "group":
        head = f"{problem.word} +{right}: "
    text, total = columns(problem.left, right, slip)
    return head + text, str(total)


def reason_reply(problem: Problem) -> str:
    """The reply to ``reason`` and ``review``."""
    return f"{steps(problem)} answer: {problem.answer}"


def relabel_reply(problem: Problem, neighbors: Sequence[Problem]) -> str:
    """The reply to ``relabel``: worked from the first neighbour of the same group, if there is one."""
    same = next((n for n in neighbors if n.word == problem.word and n.family == "group"), None)
    if same is None:
        return reason_reply(problem)
    text, _ = columns(problem.left, problem.right)
    return f"{same.left}>{same.answer} +{problem.right}: {text} answer: {problem.answer}"


def neighbor_turns(problem: Problem, neighbors: Sequence[Problem]) -> tuple[Turn, ...]:
    """The ``relabel`` prompt with true neighbours."""
    shown = [{"query": n.question, "response": n.answer} for n in neighbors]
    return prompt("relabel", problem.question, neighbors=shown)


def _draw(rng: random.Random, split: Split, words: tuple[str, ...], additions: float) -> Problem:
    if rng.random() < additions:
        return draw_addition(rng, split)
    return draw_group(rng, words, split)


def _relabel(rng: random.Random) -> Example:
    if rng.random() < 0.5:
        word, offset = rng.choice(NOVEL), rng.randint(12, 98)
        problem, *neighbors = (draw_novel(rng, word, offset) for _ in range(4))
    else:
        problem = _draw(rng, "pretrain", KNOWN + REASONED, 0.3)
        if problem.family == "add":
            neighbors = [draw_addition(rng, "pretrain") for _ in range(3)]
        else:
            words = (problem.word,) if rng.random() < 0.7 else KNOWN + REASONED
            neighbors = [draw_group(rng, words, "pretrain") for _ in range(3)]
    turns = neighbor_turns(problem, neighbors)
    return Example("relabel", problem, turns, relabel_reply(problem, neighbors))


def _candidate(rng: random.Random, problem: Problem, true: bool) -> dict[str, str]:
    text, answer = (steps(problem), problem.answer) if true else wrong_steps(rng, problem)
    if rng.random() < 0.2:
        text = ""  # a view that answered directly has no reasoning to show
        answer = answer if true else wrong_number(rng, problem.answer)
    return {"answer": answer, "reasoning": text}


def review_turns(problem: Problem, candidates: Sequence[Mapping[str, str]]) -> tuple[Turn, ...]:
    """The ``review`` prompt with two candidates."""
    return prompt("review", problem.question, candidates=list(candidates))


def _review(rng: random.Random) -> Example:
    problem = _draw(rng, "pretrain", KNOWN + REASONED, 0.3)
    truths = [rng.random() < 0.4, rng.random() < 0.6]
    rng.shuffle(truths)
    turns = review_turns(problem, [_candidate(rng, problem, true) for true in truths])
    return Example("review", problem, turns, reason_reply(problem))


def _reflect(rng: random.Random, again: bool) -> Example:
    problem = _draw(rng, "pretrain", KNOWN + REASONED, 0.3)
    true = rng.random() < 0.5
    text, answer = (steps(problem), problem.answer) if true else wrong_steps(rng, problem)
    said = (
        f"{steps(problem)} so {problem.answer}, {'same' if answer == problem.answer else 'differs'}"
    )
    if again:
        turns = prompt("reason", problem.question, reasoning=text, reflection=said)
        return Example("rereason", problem, turns, reason_reply(problem))
    turns = prompt("reflect", problem.question, reasoning=text, answer=answer)
    return Example("reflect", problem, turns, said)


def draw_example(rng: random.Random) -> Example:
    """One random pretraining example, from the pretrain split alone."""
    kind = rng.random()
    if kind < 0.34:
        problem = draw_addition(rng, "pretrain")
        return Example("answer", problem, prompt("answer", problem.question), problem.answer)
    if kind < 0.50:
        problem = draw_group(rng, KNOWN, "pretrain")
        return Example("answer", problem, prompt("answer", problem.question), problem.answer)
    if kind < 0.72:
        problem = _draw(rng, "pretrain", KNOWN + REASONED, 0.4)
        return Example("reason", problem, prompt("reason", problem.question), reason_reply(problem))
    if kind < 0.88:
        return _relabel(rng)
    if kind < 0.95:
        return _review(rng)
    return _reflect(rng, again=kind >= 0.975)
