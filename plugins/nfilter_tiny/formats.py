"""All texts that ``tiny`` is trained on: prompts from the shipped templates, and replies to them.

Prompts are rendered from the files in ``prompts/tiny``, so that training and use have the same format.
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

from nfilter_tiny.world import FACT_FAMILIES, FAMILIES, Kind, Problem, Split, draw
from nfilter_tiny.world.numbers import column_differences, column_sums

_PROMPT_FOLDERS: Final = (
    Path(__file__).resolve().parents[2] / "prompts",  # the repository
    Path(__file__).resolve().parents[1] / "nfilter" / "prompt_files",  # an installed wheel
)
PROMPTS: Final = next((p for p in _PROMPT_FOLDERS if p.is_dir()), _PROMPT_FOLDERS[0]) / "tiny"
Skill = Literal["answer", "reason", "reflect", "rereason", "relabel", "review"]
Turn = tuple[str, str]

_ROLE: Final = re.compile(r"^\[(system|user|assistant)\]$", re.MULTILINE)
_SHOWN_KINDS: Final[tuple[Kind, ...]] = ("known", "reasoned")  # facts that worked steps may show
# Weights of families, for direct answers and for all other skills.
_DIRECT: Final = {"add": 10, "shift": 8, "hue": 5, "date": 9, "order": 8, "hop": 8, "say": 4}
_WORKED: Final = {"add": 3, "shift": 7, "hue": 4, "date": 5, "order": 4, "hop": 3, "say": 4}


@dataclass(frozen=True, slots=True)
class Example:
    """One training conversation: the prompt turns, and the reply to learn."""

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
    """Return the turns of template ``name`` for ``query``."""
    values: Mapping[str, Any] = {
        "query": query, "system": None, "history": [], "options": None, "kind": "exact",
        "reflection": None, "reasoning": None, **variables,
    }  # fmt: skip
    return tuple(
        (role, body.render(values).strip()) for role, body in _blocks(PROMPTS / f"{name}.jinja")
    )


def worked(steps: str, answer: str) -> str:
    """Return steps followed by their answer, in the form that all formats with steps share."""
    return f"{steps}\nanswer: {answer}"


def reason_reply(problem: Problem) -> str:
    """Return the reply to ``reason`` and ``review``."""
    return worked(problem.steps, problem.answer)


def context_steps(problem: Problem, neighbors: Sequence[Problem]) -> str:
    """Return steps that read the fact from a neighbor with the same word; without one, the problem's own steps."""
    same = next((n for n in neighbors if problem.group and n.group == problem.group), None)
    if same is None:
        return problem.steps
    if problem.family == "shift":
        left, right = (int(part) for part in problem.parts)
        read = column_differences(int(same.answer), int(same.parts[0]))
        return f"{same.answer}-{same.parts[0]}: {read} +{right}: {column_sums(left, right)[0]}"
    return problem.steps.replace(" is ", " as shown ", 1)


def neighbor_turns(problem: Problem, shown: Sequence[tuple[str, str]]) -> tuple[Turn, ...]:
    """Return the ``relabel`` prompt with neighbors' questions and answers."""
    return prompt(
        "relabel",
        problem.question,
        neighbors=[{"query": query, "response": response} for query, response in shown],
    )


def review_turns(problem: Problem, candidates: Sequence[Mapping[str, str]]) -> tuple[Turn, ...]:
    """Return the ``review`` prompt with two candidates."""
    return prompt("review", problem.question, candidates=list(candidates))


def _family(rng: random.Random, shares: Mapping[str, int]) -> str:
    return rng.choices(list(shares), list(shares.values()))[0]


def _worked(rng: random.Random) -> Problem:
    return draw(rng, _family(rng, _WORKED), _SHOWN_KINDS, "pretrain")


def neighbors_of(
    rng: random.Random, problem: Problem, split: Split | None, alike: float = 1.0
) -> list[Problem]:
    """Return three other questions of the family from ``split``; a share ``alike`` of them needs the same fact."""
    out: list[Problem] = []
    while len(out) < 3:
        same_fact = problem.group and rng.random() < alike
        other = (
            FACT_FAMILIES[problem.family].like(rng, problem)
            if same_fact
            else FAMILIES[problem.family].draw(rng, _SHOWN_KINDS)
        )
        taken = {problem.key, *(each.key for each in out)}
        if split in (None, other.split) and other.key not in taken:
            out.append(other)
    return out


def _novel(rng: random.Random) -> Problem:
    return FACT_FAMILIES[rng.choices(("shift", "hue", "say"), (4, 4, 2))[0]].novel(rng)


def _relabel(rng: random.Random) -> Example:
    novel = _novel(rng) if rng.random() < 0.5 else None
    problem = novel or _worked(rng)
    neighbors = (
        neighbors_of(rng, problem, None) if novel else neighbors_of(rng, problem, "pretrain", 0.8)
    )
    shown = [(n.question, n.answer) for n in neighbors]
    # A checker also passes wrong rows; if the other two neighbors agree, the answer is theirs.
    if problem.family in ("hue", "say") and rng.random() < 0.2:
        index = rng.randrange(3)
        shown[index] = (shown[index][0], FAMILIES[problem.family].wrong(rng, neighbors[index]))
    reply = worked(context_steps(problem, neighbors), problem.answer)
    return Example("relabel", problem, neighbor_turns(problem, shown), reply)


def _candidate(rng: random.Random, problem: Problem, true: bool) -> dict[str, str]:
    family = FAMILIES[problem.family]
    steps, answer = (problem.steps, problem.answer) if true else family.slip(rng, problem)
    style = rng.random()
    if style < 0.25:
        steps = ""  # direct answers have no reasoning
        answer = answer if true else family.wrong(rng, problem)
    elif style < 0.55 and true:
        steps = context_steps(problem, neighbors_of(rng, problem, None))
    elif style < 0.55 and problem.family != "shift":
        steps = steps.replace(" is ", " as shown ", 1)
    return {"answer": answer, "reasoning": steps}


def _review(rng: random.Random) -> Example:
    if rng.random() < 0.4:
        return _review_novel(rng)
    problem = _worked(rng)
    truths = [rng.random() < 0.4, rng.random() < 0.6]
    rng.shuffle(truths)
    turns = review_turns(problem, [_candidate(rng, problem, true) for true in truths])
    return Example("review", problem, turns, reason_reply(problem))


def _review_novel(rng: random.Random) -> Example:
    """Only the right candidate shows where it read the fact, which the model cannot know."""
    problem = _novel(rng)
    shown = context_steps(problem, neighbors_of(rng, problem, None))
    steps, answer = FAMILIES[problem.family].slip(rng, problem)
    candidates = [
        {"answer": problem.answer, "reasoning": shown},
        {"answer": answer, "reasoning": steps if rng.random() < 0.8 else ""},
    ]
    rng.shuffle(candidates)
    return Example(
        "review", problem, review_turns(problem, candidates), worked(shown, problem.answer)
    )


def _reflect(rng: random.Random, again: bool) -> Example:
    problem = _worked(rng)
    right = rng.random() < 0.5
    steps, answer = (
        (problem.steps, problem.answer) if right else FAMILIES[problem.family].slip(rng, problem)
    )
    verdict = "same" if answer == problem.answer else "differs"
    checked = f"{problem.steps}\nso {problem.answer}, {verdict}"
    if again:
        turns = prompt("reason", problem.question, reasoning=steps, reflection=checked)
        return Example("rereason", problem, turns, reason_reply(problem))
    turns = prompt("reflect", problem.question, reasoning=steps, answer=answer)
    return Example("reflect", problem, turns, checked)


def draw_example(rng: random.Random) -> Example:
    """Draw one random pretraining example, from the pretrain split only."""
    kind = rng.random()
    if kind < 0.55:
        problem = draw(rng, _family(rng, _DIRECT), ("known",), "pretrain")
        return Example("answer", problem, prompt("answer", problem.question), problem.answer)
    if kind < 0.75:
        problem = _worked(rng)
        return Example("reason", problem, prompt("reason", problem.question), reason_reply(problem))
    if kind < 0.88:
        return _relabel(rng)
    if kind < 0.96:
        return _review(rng)
    return _reflect(rng, again=kind >= 0.98)
