"""`transformers serve` behind the API backend: what it cannot do, and what is done about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from nfilter import ModelError

RECIPE = """\
name: agreement
answer: exact
models:
  expert: {model}
source: {use: tiny, rows: 60, noise: 0.5}
samples:
  - {use: robustft.answer, llm: expert, prompt: tiny/answer, into: base, max_tokens: 16}
  - {use: robustft.reason, llm: expert, prompt: tiny/reason, rounds: 0, into: reasoning, max_tokens: 80}
  - {use: robustft.check, views: [base, reasoning], vote: all}
  - {use: robustft.answer, llm: expert, prompt: tiny/answer, into: drawn, max_tokens: 16, samples: 5, temperature: 0.7, only: flagged}
  - {use: robustft.select, by: drawn, rank: agreement, keep: 0.5}
"""
# tiny's generation_config.json says do_sample: false, and a temperature alone does not change that.
DO_SAMPLE = '{"do_sample": true}'


def test_agreement_selects_where_there_are_no_logprobs(
    line: Callable[..., str], notes_of: Callable[..., Any], compared: Callable[..., Any]
) -> None:
    """What is greedy is the same over both; what is drawn is about as often the same."""
    body = f"{{generation_config: '{DO_SAMPLE}'}}"
    served = notes_of(RECIPE, line("transformers_serve", logprobs="false", body=body))
    here = notes_of(RECIPE, "{use: hf, model: tiny}")
    share, differences = compared(here, served)
    assert share >= 0.99, differences
    flagged = {key for key, notes in here.items() if notes["check"]["flagged"]}
    assert len(flagged) > 20
    means = []
    for notes in (here, served):
        shares = agreements(notes)
        assert set(shares) == flagged
        assert min(shares.values()) < 1 <= max(shares.values())
        kept = [shares[key] for key in flagged if notes[key]["kept"]]
        assert len(kept) == len(flagged) // 2
        assert min(kept) >= max(shares[key] for key in flagged if not notes[key]["kept"])
        means.append(sum(shares.values()) / len(shares))
    assert means[1] == pytest.approx(means[0], abs=0.1)


def agreements(notes: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """By flagged sample, the share of its draws that agree."""
    return {key: each["drawn"]["agreement"] for key, each in notes.items() if "drawn" in each}


def test_logprobs_that_are_asked_for_are_missed_with_the_two_ways_out(
    tiny: Path,
    transformers_serve: str,
    ask: Callable[..., Any],
    question: Callable[..., Any],
) -> None:
    with pytest.raises(ModelError) as error:
        ask(str(tiny), transformers_serve, [question(logprobs=True)])
    said = str(error.value)
    assert "this server ignores logprobs" in said
    assert "{use: hf, ...}" in said
    assert "robustft.answer with samples: 5, temperature: 0.7" in said
    assert "robustft.select with rank: agreement" in said
    (done,) = ask(str(tiny), transformers_serve, [question(logprobs=True)], logprobs=False)
    assert done.failure is None
    assert done.logprobs is None


def test_ends_counts_and_stops(
    tiny: Path,
    transformers_serve: str,
    ask: Callable[..., Any],
    question: Callable[..., Any],
) -> None:
    """The server ends a text with its stop string; here it does not."""
    asked = [question(max_tokens=80), question(max_tokens=5), question(max_tokens=80, stop=("answer",))]  # fmt: skip
    whole, cut, stopped = ask(str(tiny), transformers_serve, asked)
    assert (whole.finish, cut.finish, stopped.finish) == ("stop", "length", "stop")
    assert (cut.prompt_tokens, cut.completion_tokens) == (11, 5)
    assert whole.text.startswith(cut.text)
    assert stopped.text == whole.text.partition("answer")[0] != whole.text


def test_draws_differ_and_one_at_a_time_their_seeds_repeat_them(
    tiny: Path,
    transformers_serve: str,
    ask: Callable[..., Any],
    question: Callable[..., Any],
) -> None:
    """The server has one generator for all calls: where several are under way, a seed says nothing."""
    asked = [
        question("hue blap 512", max_tokens=32, temperature=1.5, seed=seed, draw=draw)
        for seed in (1, 2)
        for draw in range(5)
    ]
    more = {"body": {"generation_config": DO_SAMPLE}, "logprobs": False, "concurrency": 1}
    first, second = (
        [done.text for done in ask(str(tiny), transformers_serve, asked, **more)] for _ in range(2)
    )
    assert len(set(first)) > 3
    assert first == second


def test_another_model_ends_the_run(
    transformers_serve: str, ask: Callable[..., Any], question: Callable[..., Any]
) -> None:
    with pytest.raises(ModelError, match="Server is pinned to"):
        ask("nobody/nothing", transformers_serve, [question()])


def test_a_field_that_it_does_not_take_ends_the_run(
    tiny: Path,
    transformers_serve: str,
    ask: Callable[..., Any],
    question: Callable[..., Any],
) -> None:
    with pytest.raises(ModelError, match=r"422: Unexpected fields in the request: \{'top_k'\}"):
        ask(str(tiny), transformers_serve, [question()], body={"top_k": 1})
