"""The world's truth, splits and determinism, recomputed here without the world's own code."""

from __future__ import annotations

import datetime as dt
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from nfilter_tiny import MODEL_DIR, freeze, rows, world
from nfilter_tiny.formats import PROMPTS, Example, draw_example, neighbors_of, prompt
from nfilter_tiny.own_wrong import own_wrong, well_formed
from nfilter_tiny.world.numbers import column_differences, column_sums

PACKAGE_ROOT = Path(world.__file__).resolve().parents[2]
SPLITS = ("train", "dev", "test")
DOMAINS = ("tasks", "say")
SIZES = {
    ("tasks", "train"): 1200,
    ("tasks", "dev"): 800,
    ("tasks", "test"): 2000,
    ("say", "test"): 2000,
}


def canonical(question: str) -> tuple[str, ...]:
    """The canonical key of a question, from its text alone."""
    if found := re.fullmatch(r"(\d+)\+(\d+)", question):
        return ("add", *sorted(found.groups(), key=int))
    if found := re.fullmatch(r"(low|mid|high)((?: \d+){5})", question):
        return ("order", found[1], *sorted(found[2].split(), key=int))
    if found := re.fullmatch(r"((?:\w+ \w+, ){5}\w+ \w+) from (\w+)", question):
        return ("hop", found[2], *sorted(found[1].split(", ")))
    if found := re.fullmatch(r"hue (\w+) (\d+)", question):
        return ("hue", *found.groups())
    if found := re.fullmatch(r"say (\w+) (\w+) (\w+) (\w+)", question):
        return ("say", *found.groups())
    if found := re.fullmatch(r"(\d+ [a-z]{3}) \+(\d+)", question):
        return ("date", *found.groups())
    found = re.fullmatch(r"([a-z]+) (\d+)", question)
    assert found, f"not a question of this world: {question!r}"
    return ("shift", *found.groups())


def solved(question: str) -> str | None:
    """The answer of a question that needs no made-up fact."""
    family, *parts = canonical(question)
    if family == "add":
        return str(sum(map(int, parts)))
    if family == "order":
        ranked = sorted(map(int, parts[1:]))
        return str({"low": ranked[0], "mid": ranked[2], "high": ranked[4]}[parts[0]])
    if family == "hop":
        links = dict(link.split() for link in parts[1:])
        return links[links[parts[0]]]
    if family == "date":
        day = dt.datetime.strptime(f"{parts[0]} 2022", "%d %b %Y").replace(tzinfo=dt.UTC).date()
        later = day + dt.timedelta(days=int(parts[1]))
        return f"{later.day} {later.strftime('%b').lower()}"
    return None


def shown(example: Example) -> set[tuple[str, ...]]:
    """Every question whose answer the prompt or the reply gives away."""
    lines = example.turns[-1][1].split("\n")
    if example.skill != "relabel":
        return {canonical(lines[0])}
    return {canonical(line.split(" = ")[0].removesuffix(" =")) for line in lines}


def test_no_question_is_in_two_splits() -> None:
    """Pretraining (every question and neighbor in 30,000 examples), train, dev, test and the profile's neighbors."""
    rng = random.Random(11)
    seen = {
        split: {
            canonical(row["question"]) for domain in DOMAINS for row in rows(split, None, domain)
        }
        for split in SPLITS
    }
    examples = [draw_example(rng) for _ in range(30_000)]
    # the facts of novel words change from example to example, so their questions give nothing away
    seen["pretrain"] = {key for e in examples if e.problem.kind != "novel" for key in shown(e)}
    seen["neighbors"] = {
        canonical(near.question)
        for domain in DOMAINS
        for problem in world.problems("dev", domain)[:500]
        for near in neighbors_of(rng, problem, "neighbors")
    }
    assert min(map(len, seen.values())) > 1000
    names = sorted(seen)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert not seen[one] & seen[other], (one, other)


def test_rows_are_distinct_and_enough() -> None:
    for (domain, split), least in SIZES.items():
        found = rows(split, None, domain)
        assert len(found) >= least
        assert len({canonical(row["question"]) for row in found}) == len(found)
        assert len({row["id"] for row in found}) == len(found)


def test_answers_that_need_no_fact_are_true() -> None:
    checked = Counter()
    for split in SPLITS:
        for row in rows(split):
            true = solved(row["question"])
            if true is not None:
                assert row["answer"] == true, row
                checked[row["family"]] += 1
    for problem in list(world.FAMILIES["hop"].candidates())[:1000]:
        assert problem.answer == solved(problem.question)
    assert set(checked) == {"add", "order", "date"}
    assert min(checked.values()) > 500


def test_every_word_has_one_fact() -> None:
    facts: dict[tuple[str, str], set[str]] = {}
    for split in SPLITS:
        for row in rows(split):
            family, *parts = canonical(row["question"])
            if family == "shift":
                fact = str(int(row["answer"]) - int(parts[1]))
            elif family == "hue":
                fact = row["answer"]
            else:
                continue
            facts.setdefault((family, parts[0]), set()).add(fact)
        for row in rows(split, None, "say"):
            _, person, thing, word, day = canonical(row["question"])
            found = re.fullmatch(
                rf"(?:on {day}\w*day )?{person} takes the {thing} (.+?)(?: on {day}\w*day)?\.",
                row["answer"],
            )
            assert found, row
            facts.setdefault(("say", word), set()).add(found[1])
    assert all(len(found) == 1 for found in facts.values())
    assert Counter(family for family, _ in facts) == {"shift": 20, "hue": 24, "say": 14}


def test_every_prefix_holds_every_family_and_word() -> None:
    found = rows("train", 800)
    assert Counter(row["family"] for row in found) == {
        "shift": 320, "hue": 160, "date": 120, "order": 80, "add": 120,
    }  # fmt: skip
    words = Counter(
        row["question"].split()[0 if row["family"] == "shift" else 1]
        for row in found
        if row["family"] in ("shift", "hue")
    )
    assert len(words) == 44
    assert min(words.values()) >= 2


def test_nothing_new_is_shown_in_pretraining() -> None:
    """A new word is in no example, and a word known from steps alone never has a direct answer."""
    rng = random.Random(12)
    for _ in range(20_000):
        example = draw_example(rng)
        assert example.problem.kind != "new"
        assert example.skill != "answer" or example.problem.kind in ("known", "plain")


def test_the_figures_rest_on_what_was_frozen() -> None:
    """Any change to words, facts, splits, order, weights, formats or drawn noise shows here: it is a new version."""
    assert json.loads((MODEL_DIR / "frozen.json").read_text(encoding="utf-8")) == freeze.hashes()


def test_rows_refuse_more_than_there_are() -> None:
    with pytest.raises(ValueError, match="n=99999 is out of range"):
        rows("dev", 99_999)


def test_wrong_answers_are_wrong_and_plausible() -> None:
    rng = random.Random(5)
    for domain in DOMAINS:
        for problem in world.problems("dev", domain)[:600]:
            family = world.FAMILIES[problem.family]
            for _ in range(5):
                wrong, (steps, slipped) = family.wrong(rng, problem), family.slip(rng, problem)
                assert wrong != problem.answer
                assert slipped != problem.answer
                assert steps != problem.steps
                assert well_formed(problem, wrong), (problem.question, wrong)


def test_own_wrong_answers_are_wrong_and_cover_the_training_rows() -> None:
    drawn = own_wrong()
    for domain in DOMAINS:
        train = world.problems("train", domain)[:1200]
        for problem in train:
            assert problem.answer not in drawn[world.id_of(problem)]
            assert all(well_formed(problem, answer) for answer in drawn[world.id_of(problem)])
        assert sum(bool(drawn[world.id_of(p)]) for p in train) > 0.9 * len(train)


def test_column_arithmetic() -> None:
    rng = random.Random(4)
    for _ in range(500):
        left, right = rng.randrange(10_000), rng.randrange(10_000)
        text, total = column_sums(left, right)
        assert total == left + right
        assert all(
            sum(map(int, re.split(r"\+", part.split("=")[0]))) == int(part.split("=")[1])
            for part in text.split()
        )
        high, low = max(left, right), min(left, right)
        digits = [part.split("=")[1] for part in column_differences(high, low).split()]
        assert int("".join(reversed(digits))) == high - low


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


def test_training_renders_as_the_core_does() -> None:
    """Training renders with its own few lines; they must give what a run gives, to the character."""
    prompts = pytest.importorskip("nfilter.recipe.prompts").Prompts([PROMPTS.parent])
    common = {"system": None, "history": [], "options": None, "kind": "exact", "query": "mip 37"}
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
        {"answer": "85", "reasoning": "mip +48: 7+8=15 3+4+1=8\nanswer: 85"},
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
        ("user", "mip 37\n1: mip +48: 7+8=15 3+4+1=8 so 85\n2: so ?\nreview:"),
    )
