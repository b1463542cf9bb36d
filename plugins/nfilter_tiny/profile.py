"""Skill profile of a trained ``tiny``: accuracy on held-out questions."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from nfilter import wilson
from nfilter_tiny.formats import Turn, neighbor_turns, neighbors_of, prompt, review_turns
from nfilter_tiny.world import FAMILIES, Problem, Split, problems

_SEED = "nfilter-tiny profile 2"
_MARK = "answer:"


def final_answer(reply: str) -> str:
    """Return the text after the last "answer:" of a reply, or the whole reply."""
    return reply.rsplit(_MARK, 1)[-1].strip()


def is_right(problem: Problem, answer: str) -> bool:
    """Return whether ``answer`` is correct; a sentence is correct with the right words in either wording."""
    if problem.family == "say":
        return sorted(answer.rstrip(".").split()) == sorted(problem.answer.rstrip(".").split())
    return answer == problem.answer


class Replier:
    """Generates replies with a model folder, batched by length."""

    def __init__(self, folder: Path, model: Any = None) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model = model or AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.model.eval()

    def __call__(
        self,
        prompts: Sequence[Sequence[Turn]],
        max_new: int = 80,
        batch: int = 200,
        temperature: float = 0.0,
    ) -> list[str]:
        """Return one reply per prompt, in order; greedy, or sampled at ``temperature``."""
        texts = [
            self.tokenizer.apply_chat_template(
                [{"role": role, "content": content} for role, content in turns],
                tokenize=False,
                add_generation_prompt=True,
            )
            for turns in prompts
        ]
        sampling: dict[str, Any] = {"do_sample": temperature > 0}
        if temperature:
            sampling |= {"temperature": temperature, "top_k": 0, "top_p": 1.0}
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
                    **sampling,
                )
            new = out[:, inputs["input_ids"].shape[1] :]
            for i, reply in zip(
                part, self.tokenizer.batch_decode(new, skip_special_tokens=True), strict=True
            ):
                replies[i] = reply
        return replies


def measure(
    folder: Path, *, limit: int = 400, model: Any = None, split: Split = "dev"
) -> dict[str, Any]:
    """Return accuracy by skill and family, with n and the Wilson 95% interval.

    Families with facts are also split by what pretraining showed of them; ``tasks`` is the fine-tuning domain in its own mixture.
    ``neighbors`` come from a separate split. ``review`` shows one true and one faulty candidate; ``own review`` shows two of the
    model's own answers that differ, one of them correct.
    """
    reply = Replier(folder, model)
    hops = (p for p in FAMILIES["hop"].candidates() if p.split == split)
    chosen = [
        *problems(split)[: 4 * limit],
        *problems(split, "say")[:limit],
        *islice(hops, limit // 2),
    ]
    answers = {
        "direct": _ask(reply, [prompt("answer", p.question) for p in chosen]),
        "reason": _ask(reply, [prompt("reason", p.question) for p in chosen]),
        "neighbors": _ask(reply, _with_neighbors(chosen)),
    }
    correct = {
        skill: [is_right(p, final_answer(text)) for p, text in zip(chosen, texts, strict=True)]
        for skill, texts in answers.items()
    }
    table = {skill: _by_family(chosen, right) for skill, right in correct.items()}
    table["review"] = _by_family(chosen, _slipped_review(reply, chosen))
    for one, other in (("direct", "reason"), ("neighbors", "reason")):
        # Questions of which exactly one of the two answers is correct.
        split_by = [i for i in range(len(chosen)) if correct[one][i] != correct[other][i]]
        questions = [chosen[i] for i in split_by]
        prompts = [
            review_turns(chosen[i], _pair(answers[one][i], answers[other][i])) for i in split_by
        ]
        replies = zip(questions, _ask(reply, prompts), strict=True)
        picked = [is_right(question, final_answer(text)) for question, text in replies]
        table[f"own review, {one} or {other}"] = _by_family(questions, picked)
    return table


def _ask(reply: Replier, turns: Sequence[tuple[Turn, ...]]) -> list[str]:
    return reply(turns) if turns else []


def _with_neighbors(chosen: Sequence[Problem]) -> list[tuple[Turn, ...]]:
    rng = random.Random(_SEED)
    return [
        neighbor_turns(p, [(n.question, n.answer) for n in neighbors_of(rng, p, "neighbors")])
        for p in chosen
    ]


def _slipped_review(reply: Replier, chosen: Sequence[Problem]) -> list[bool]:
    rng = random.Random(_SEED)
    prompts = []
    for p in chosen:
        steps, answer = FAMILIES[p.family].slip(rng, p)
        pair = [
            {"answer": p.answer, "reasoning": p.steps},
            {"answer": answer, "reasoning": steps},
        ]
        rng.shuffle(pair)
        prompts.append(review_turns(p, pair))
    texts = _ask(reply, prompts)
    return [is_right(p, final_answer(text)) for p, text in zip(chosen, texts, strict=True)]


def _pair(*replies: str) -> list[dict[str, str]]:
    return [
        {"answer": final_answer(text), "reasoning": text if _MARK in text else ""}
        for text in replies
    ]


def _by_family(
    chosen: Sequence[Problem], correct: Sequence[bool]
) -> dict[str, dict[str, float | int]]:
    results: dict[str, list[bool]] = defaultdict(list)
    for p, is_correct in zip(chosen, correct, strict=True):
        if p.family not in ("say", "hop"):
            results["tasks"].append(is_correct)
        results[p.family].append(is_correct)
        if p.kind != "plain":
            results[f"{p.family} {p.kind}"].append(is_correct)
    return {name: _accuracy(values) for name, values in sorted(results.items())}


def _accuracy(correct: Sequence[bool]) -> dict[str, float | int]:
    low, high = wilson(sum(correct), len(correct)) or (0.0, 1.0)
    return {
        "right": round(sum(correct) / len(correct), 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "n": len(correct),
    }
