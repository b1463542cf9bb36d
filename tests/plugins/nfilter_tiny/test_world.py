"""The world's truth, splits and determinism, recomputed here without the world's own code."""

from __future__ import annotations

import hashlib
import os
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from nfilter_tiny import rows, world
from nfilter_tiny.formats import PROMPTS, Example, columns, draw_example, prompt, wrong_steps

PACKAGE_ROOT = Path(world.__file__).resolve().parents[1]
SPLITS = ("train", "dev", "test")


def canonical(question: str) -> tuple[str, ...]:
    """The canonical key of a question, from its text alone."""
    if found := re.fullmatch(r"(\d+)\+(\d+)", question):
        return ("add", *sorted(found.groups(), key=int))
    found = re.fullmatch(r"([a-z]+) (\d+)", question)
    assert found, f"not a question of this world: {question!r}"
    return ("group", *found.groups())


def shown(example: Example) -> set[tuple[str, ...]]:
    """Every domain question or addition whose answer the prompt or the reply gives away."""
    text = example.turns[-1][1]
    first = (
        text.split("\n")[0]
        if example.skill != "relabel"
        else text.split("\n")[-1].removesuffix(" =")
    )
    questions = {canonical(first)}
    if example.skill == "relabel":
        questions |= {canonical(line.split(" = ")[0]) for line in text.split("\n")[:-1]}
    return questions


def test_no_question_is_in_two_splits() -> None:
    seen = {split: {canonical(row["question"]) for row in rows(split)} for split in SPLITS}
    rng = random.Random(11)
    pretrain = set().union(*(shown(draw_example(rng)) for _ in range(20_000)))
    pretrain = {key for key in pretrain if key[1] not in world.NOVEL}
    held_additions = {canonical(world.draw_addition(rng, "dev").question) for _ in range(2000)}

    assert len(pretrain) > 10_000
    assert not seen["train"] & seen["dev"]
    assert not seen["train"] & seen["test"]
    assert not seen["dev"] & seen["test"]
    assert not pretrain & set().union(*seen.values())
    assert not pretrain & held_additions


def test_rows_are_distinct_and_enough() -> None:
    for split, least in zip(SPLITS, (800, 400, 2000), strict=True):
        found = rows(split)
        assert len(found) >= least
        assert len({canonical(row["question"]) for row in found}) == len(found)
        assert len({row["id"] for row in found}) == len(found)


def test_answers_follow_one_offset_a_word() -> None:
    offsets: dict[str, set[int]] = {}
    for split in SPLITS:
        for row in rows(split):
            word, operand = row["question"].split()
            offsets.setdefault(word, set()).add(int(row["answer"]) - int(operand))
    assert len(offsets) == 20
    assert all(len(found) == 1 for found in offsets.values())
    assert len({min(found) for found in offsets.values()}) == 20


def test_every_prefix_holds_every_kind() -> None:
    words = Counter(row["question"].split()[0] for row in rows("train", 800))
    assert len(words) == 20
    assert min(words.values()) >= 20


def test_reversed_addition_is_the_same_problem() -> None:
    one = world.Problem("add", "plain", "+", 12, 345)
    other = world.Problem("add", "plain", "+", 345, 12)
    assert one.key == other.key
    assert one.split == other.split


def test_rows_are_frozen() -> None:
    """Any change to words, offsets, splits, order or ids shows here: a new world needs a new model."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for row in rows(split):
            digest.update(f"{split} {row['id']} {row['question']} {row['answer']}\n".encode())
    assert digest.hexdigest() == "0fd30f3f2b14e645a9e83237a2b65bc94cffe8abfe243dd73447fb59f684c5eb"


def test_rows_refuse_more_than_there_are() -> None:
    with pytest.raises(ValueError, match="n=99999 is out of range"):
        rows("dev", 99_999)


def test_the_stream_does_not_depend_on_the_process() -> None:
    code = (
        "import random; from nfilter_tiny.formats import draw_example; r = random.Random(3);"
        "print([draw_example(r).turns for _ in range(50)])"
    )
    rng = random.Random(3)
    here = str([draw_example(rng).turns for _ in range(50)])
    env = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": str(PACKAGE_ROOT)}
    there = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert there.stdout.strip() == here


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, nfilter_tiny; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    env = {**os.environ, "PYTHONPATH": str(PACKAGE_ROOT)}
    out = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"


def test_columns_spell_the_sum() -> None:
    assert columns(937, 48) == ("7+8=15 3+4+1=8 9+0=9", 985)
    rng = random.Random(5)
    for _ in range(500):
        left, right = rng.randrange(10_000), rng.randrange(10_000)
        assert columns(left, right)[1] == left + right


def test_wrong_answers_are_wrong() -> None:
    rng = random.Random(6)
    for row in rows("train", 500):
        wrong = world.wrong_number(rng, row["answer"])
        assert wrong != row["answer"]
        assert len(wrong) == len(row["answer"])
        word, operand = row["question"].split()
        assert wrong_steps(rng, world.group(word, int(operand)))[1] != row["answer"]


def test_training_renders_as_the_core_does() -> None:
    """Training renders with its own few lines; they must give what a run gives, to the character."""
    prompts = pytest.importorskip("nfilter.prompts").Prompts([PROMPTS.parent])
    common = {"system": None, "history": [], "options": None, "kind": "number", "query": "mip 37"}
    cases: list[tuple[str, dict[str, Any]]] = [
        ("answer", {}),
        ("reason", {"reasoning": None, "reflection": None}),
        ("reason", {"reasoning": "a answer: 8", "reflection": "b so 9, differs"}),
        ("reflect", {"reasoning": "a answer: 8", "answer": "8"}),
        ("relabel", {"neighbors": [{"query": "mip 1", "response": "57"}] * 3}),
        (
            "review",
            {
                "candidates": [
                    {"answer": "8", "reasoning": "a answer: 8"},
                    {"answer": "9", "reasoning": None},
                ]
            },
        ),
    ]
    for name, variables in cases:
        theirs = prompts.get(f"tiny/{name}").render(**common, **variables)
        assert tuple((m.role, m.content) for m in theirs) == prompt(name, "mip 37", **variables)


def test_prompts_are_what_the_templates_say() -> None:
    neighbors = [{"query": "mip 1", "response": "57"}, {"query": "mip 2", "response": "58"}]
    candidates = [
        {"answer": "85", "reasoning": "mip +48: 7+8=15 3+4+1=8 answer: 85"},
        {"answer": None, "reasoning": None},
    ]
    query = "mip 37"
    assert prompt("answer", query) == (("user", "mip 37"),)
    assert prompt("reason", query) == (("user", "mip 37\nsteps:"),)
    assert prompt("reason", query, reasoning="a answer: 8", reflection="b so 9, differs") == (
        ("user", "mip 37\nbefore: a\ncheck: b so 9, differs\nsteps:"),
    )
    assert prompt("reflect", query, reasoning="a answer: 8", answer="8") == (
        ("user", "mip 37\nbefore: a so 8\ncheck:"),
    )
    assert prompt("relabel", query, neighbors=neighbors) == (
        ("user", "mip 1 = 57\nmip 2 = 58\nmip 37 ="),
    )
    assert prompt("review", query, candidates=candidates) == (
        ("user", "mip 37\n1: mip +48: 7+8=15 3+4+1=8 so 85\n2:  so ?\nreview:"),
    )
