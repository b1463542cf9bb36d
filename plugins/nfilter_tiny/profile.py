"""The skill profile of a trained ``tiny``: what it gets right on questions that it was never trained on."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from nfilter_tiny.formats import Turn, neighbor_turns, prompt, review_turns, steps, wrong_steps
from nfilter_tiny.world import (
    KNOWN,
    NEW,
    REASONED,
    Problem,
    Split,
    draw_addition,
    draw_group,
    group,
)

_NUMBER: Final = re.compile(r"-?\d+")


@dataclass(frozen=True, slots=True)
class Asked:
    """One measured question: where it counts, what is asked and what is right."""

    skill: str
    family: str
    turns: tuple[Turn, ...]
    true: str


def final_number(reply: str) -> str | None:
    """The last number of a reply, which is where every format of ``tiny`` puts its answer."""
    found = _NUMBER.findall(reply)
    return found[-1] if found else None


def wilson(right: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The Wilson score interval of a proportion."""
    share, scale = right / n, 1 + z * z / n
    middle = (share + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # The ends are exact where nothing or everything is right; the formula leaves rounding there.
    return (0.0 if right == 0 else middle - half), (1.0 if right == n else middle + half)


class Replier:
    """Greedy replies of a model folder, batched by length."""

    def __init__(self, folder: Path, model: Any = None) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model = model or AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.model.eval()

    def __call__(
        self, prompts: Sequence[Sequence[Turn]], max_new: int = 64, batch: int = 200
    ) -> list[str]:
        """One reply a prompt, in order."""
        texts = [
            self.tokenizer.apply_chat_template(
                [{"role": role, "content": content} for role, content in turns],
                tokenize=False,
                add_generation_prompt=True,
            )
            for turns in prompts
        ]
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        replies = [""] * len(texts)
        for start in range(0, len(order), batch):
            part = order[start : start + batch]
            inputs = self.tokenizer(
                [texts[i] for i in part],
                return_tensors="pt",
                padding=True,
                add_special_tokens=False,
            )
            with torch.inference_mode():
                out = self.model.generate(
                    input_ids=inputs["input_ids"],
                    attention_mask=inputs["attention_mask"],
                    max_new_tokens=max_new,
                    do_sample=False,
                )
            new = out[:, inputs["input_ids"].shape[1] :]
            for i, reply in zip(
                part, self.tokenizer.batch_decode(new, skip_special_tokens=True), strict=True
            ):
                replies[i] = reply
        return replies


def neighbors_of(rng: random.Random, problem: Problem, split: Split) -> list[Problem]:
    """Three other questions of the same group, or three additions."""
    found: list[Problem] = []
    while len(found) < 3:
        other = (
            draw_addition(rng, split)
            if problem.family == "add"
            else draw_group(rng, (problem.word,), split)
        )
        if other.key != problem.key:
            found.append(other)
    return found


def questions(n: int, split: Split = "dev") -> dict[str, list[Problem]]:
    """``n`` held-out problems of each family and kind of group."""
    rng = random.Random("nfilter-tiny profile 1")
    kinds = {"group known": KNOWN, "group reasoned": REASONED, "group new": NEW}
    out = {"add": [draw_addition(rng, split) for _ in range(n)]}
    for name, words in kinds.items():
        pool = [p for w in words for x in range(10, 1000) if (p := group(w, x)).split == split]
        out[name] = rng.sample(pool, min(n, len(pool)))
    return out


def _ask(problems: dict[str, list[Problem]]) -> Iterable[Asked]:
    rng = random.Random("nfilter-tiny profile 2")
    for family, members in problems.items():
        for p in members:
            yield Asked("direct", family, prompt("answer", p.question), p.answer)
            yield Asked("reason", family, prompt("reason", p.question), p.answer)
            yield Asked(
                "neighbors", family, neighbor_turns(p, neighbors_of(rng, p, p.split)), p.answer
            )
            text, wrong = wrong_steps(rng, p)
            pair = [
                {"answer": p.answer, "reasoning": steps(p)},
                {"answer": wrong, "reasoning": text},
            ]
            rng.shuffle(pair)
            yield Asked("review", family, review_turns(p, pair), p.answer)


def measure(folder: Path, *, limit: int = 400, model: Any = None) -> dict[str, Any]:
    """The share of right answers by skill and family, with n and the Wilson 95% interval.

    ``own review`` takes the model's own direct and step-by-step answers where they differ and one is right.
    """
    reply = Replier(folder, model)
    problems = questions(limit)
    asked = list(_ask(problems))
    said = [final_number(r) for r in reply([a.turns for a in asked])]
    table: dict[str, dict[str, list[bool]]] = {}
    for a, answer in zip(asked, said, strict=True):
        table.setdefault(a.skill, {}).setdefault(a.family, []).append(answer == a.true)
    for a, right in _own_review(reply, problems):
        table.setdefault("own review", {}).setdefault(a.family, []).append(right)
    return {
        skill: {family: _figure(rights) for family, rights in families.items()}
        for skill, families in table.items()
    }


def _own_review(reply: Replier, problems: dict[str, list[Problem]]) -> list[tuple[Asked, bool]]:
    members = [(family, p) for family, ps in problems.items() for p in ps]
    direct = reply([prompt("answer", p.question) for _, p in members])
    worked = reply([prompt("reason", p.question) for _, p in members])
    asked = []
    for (family, p), short, long in zip(members, direct, worked, strict=True):
        answers = {final_number(short), final_number(long)}
        if len(answers) == 2 and p.answer in answers:
            pair = [
                {"answer": final_number(short) or "", "reasoning": ""},
                {"answer": final_number(long) or "", "reasoning": long},
            ]
            asked.append(Asked("own review", family, review_turns(p, pair), p.answer))
    if not asked:
        return []
    return [
        (a, final_number(r) == a.true)
        for a, r in zip(asked, reply([a.turns for a in asked]), strict=True)
    ]


def _figure(rights: Sequence[bool]) -> dict[str, float | int]:
    low, high = wilson(sum(rights), len(rights))
    return {
        "right": round(sum(rights) / len(rights), 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "n": len(rights),
    }
