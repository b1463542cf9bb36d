"""The scripted model of ``benchmarks.agents`` reads questions, errs at its rates, and knows no truth."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from benchmarks.agents import AGENTS, MEAN, TURNS, chains, expected, latency, sums
from benchmarks.agents_policy import CHAINS, Policy, compute, problem, read_steps, solution


def asked(question: str, voice: str = "") -> list[dict[str, Any]]:
    return [{"role": "user", "content": f"{voice}\nQuestion:\nBEGIN 1a2b3c4d\n{question}\nEND 1a2b3c4d\nEnd."}]  # fmt: skip


def answered(policy: Policy, question: str, voice: str = "") -> int:
    """Hold the conversation, computing what the policy asks for; return its answer."""
    messages = asked(question, voice)
    for _ in range(6):
        done = policy(messages)
        if not done.tool_calls:
            head, _, answer = done.text.rpartition("Answer 1a2b3c4d: ")
            assert head
            return int(answer)
        expression = str(json.loads(done.tool_calls[0].arguments)["expression"])
        messages += [
            {"role": "assistant", "content": None},
            {"role": "tool", "content": str(compute(expression))},
        ]
    raise AssertionError("it never answers")


def test_questions_are_read_as_they_are_made() -> None:
    rng = random.Random(1)
    for _ in range(60):
        question, numbers, steps = problem(rng)
        assert read_steps(question) == (numbers, steps)
    assert read_steps("12+30") == (["12", "30"], (("0", "+", "1"),))
    assert read_steps("What is a heron?") is None


def test_the_worked_answers_are_right_and_the_wrong_ones_are_wrong() -> None:
    by_hand = {
        0: lambda a, b, c, d, e: a * b - c + d * e,
        1: lambda trips, people, off, days: (days - off) * trips * people,
        2: lambda a, b, c, d, e: a * b + c * d - e,
    }
    rng = random.Random(2)
    for _ in range(60):
        question, numbers, steps = problem(rng)
        kind = next(n for n, chain in enumerate(CHAINS) if chain.steps == steps)
        right = by_hand[kind](*map(int, numbers))
        assert solution(numbers, steps).endswith(f"#### {right}")
        assert not solution(numbers, steps, rng).endswith(f"#### {right}")
        assert answered(Policy(True, 0.5, 0.0, 0), question) == right
        assert answered(Policy(False, 0.0, 0.0, 0), question) == right


@pytest.mark.parametrize(("tools", "share"), [(False, 0.75 * 0.9), (True, 0.9)])
def test_it_errs_at_its_rates(tools: bool, share: float) -> None:
    policy = Policy(tools, slip=0.25, misread=0.1, seed=0)
    hits = [answered(policy, f"{n}+{n + 7}", str(n)) == 2 * n + 7 for n in range(100, 1500)]
    # Five standard deviations of 1,400 draws.
    assert sum(hits) / len(hits) == pytest.approx(share, abs=0.065)


def test_other_prompts_have_other_mistakes() -> None:
    policy = Policy(False, slip=0.5, misread=0.0, seed=0)
    found = {answered(policy, "400+55", voice) for voice in "abcdefghij"}
    assert 455 in found
    assert len(found) > 2


def test_rows_are_the_same_for_a_seed_and_have_wrong_answers() -> None:
    for make in (sums, chains):
        assert list(make(5, 1)) == list(make(5, 1)) != list(make(5, 2))
        for row in make(5, 1):
            assert row["response"] not in row["wrong"]


def test_times_side_by_side_are_bounded_by_the_slowest_agent() -> None:
    rounds, side = expected(0)
    assert side < rounds
    assert side >= max(latency(0, str(n), turn) for n in range(AGENTS) for turn in range(TURNS))
    mean = sum(latency(0, str(n), turn) for n in range(AGENTS) for turn in range(TURNS)) / (AGENTS * TURNS)  # fmt: skip
    assert mean == pytest.approx(MEAN, rel=0.3)
