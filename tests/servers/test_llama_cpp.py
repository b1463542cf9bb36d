"""llama.cpp's server behind the API backend: log-probabilities as here, and how it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nfilter import Request, Site
from nfilter.registry.loading import load

ROWS = 100
RECIPE = f"""\
name: robustft
answer: exact
models:
  expert: {{model}}
  encoder: {{use: hf, model: tiny}}
source: {{use: tiny, rows: {ROWS}, noise: 0.5}}
samples:
  - {{use: robustft.answer, llm: expert, prompt: tiny/answer, into: base, max_tokens: 16}}
  - {{use: robustft.reason, llm: expert, prompt: tiny/reason, rounds: 0, into: reasoning, max_tokens: 80}}
  - {{use: robustft.check, views: [base, reasoning], vote: all}}
  - {{use: robustft.relabel, llm: expert, encoder: encoder, prompt: tiny/relabel, k: 3, into: context, max_tokens: 80}}
  - {{use: robustft.review, llm: expert, prompt: tiny/review, views: [context, reasoning], max_tokens: 80}}
  - {{use: robustft.select, by: context, keep: 0.5}}
"""
HF = "{use: hf, model: tiny}"
NLL = 1e-4  # measured: 4e-6 at most


def test_the_whole_method_gives_the_same(
    line: Callable[..., str], notes_of: Callable[..., Any], compared: Callable[..., Any]
) -> None:
    served = notes_of(RECIPE, line("llama_server"))
    here = notes_of(RECIPE, HF)
    share, differences = compared(here, served)
    assert share >= 0.99, differences
    same = [key for key in here if here[key]["kept"] == served[key]["kept"]]
    assert len(same) >= 0.99 * ROWS
    flagged = [key for key, notes in here.items() if "context" in notes]
    assert len(flagged) > 30
    assert {here[key]["kept"] for key in flagged} == {True, False}
    for view, keys in {"base": here, "reasoning": here, "context": flagged}.items():
        nll = [[one[key][view]["nll"] for key in keys] for one in (here, served)]
        assert None not in nll[0]
        assert nll[1] == pytest.approx(nll[0], abs=NLL), view


def test_each_logprob_is_the_one_here_the_end_token_included(
    llama_server: str, ask: Callable[..., Any], question: Callable[..., Request]
) -> None:
    asked = [question(f"mip {n}\nsteps:", logprobs=True, max_tokens=80) for n in range(20)]
    for mine, theirs in zip(_here(asked), ask("tiny", llama_server, asked), strict=True):
        assert (theirs.text, theirs.finish) == (mine.text, mine.finish)
        assert (theirs.prompt_tokens, theirs.completion_tokens) == (
            mine.prompt_tokens,
            mine.completion_tokens,
        )
        assert theirs.logprobs == pytest.approx(mine.logprobs, abs=1e-3)


def _here(asked: list[Request]) -> Any:
    plugins = load()
    kind = next(item.cls for item in plugins.of_kind("backend") if item.name == "hf")
    backend = kind(kind.Config(model="tiny"), Site(Path(), plugins.models))
    try:
        return backend.generate(asked)
    finally:
        backend.close()


@pytest.mark.parametrize("transport", ["aiohttp", "litellm"])
def test_a_prompt_that_is_too_long_is_a_failure_of_its_own(
    llama_server: str,
    ask: Callable[..., Any],
    question: Callable[..., Request],
    transport: str,
) -> None:
    asked = [question(), *(question("7 " * 1500 + str(n)) for n in range(4)), question()]
    first, *long, last = ask("tiny", llama_server, asked, transport=transport, logprobs=False)
    assert first.failure is last.failure is None
    for done in long:
        assert done.failure is not None
        assert done.failure.kind == "too_long"
        assert "exceeds the available context size (1024 tokens)" in done.failure.detail


def test_ends_and_stops(
    llama_server: str, ask: Callable[..., Any], question: Callable[..., Request]
) -> None:
    asked = [
        question(max_tokens=80),
        question(max_tokens=5),
        question(max_tokens=80, stop=("answer",), logprobs=True),
        question("7 " * 505, max_tokens=100),
    ]
    whole, cut, stopped, full = ask("tiny", llama_server, asked)
    ends = ("stop", "length", "stop", "length")
    assert (whole.finish, cut.finish, stopped.finish, full.finish) == ends
    assert stopped.text == whole.text.partition("answer")[0] != whole.text
    assert full.prompt_tokens + full.completion_tokens == 1024


def test_draws_have_seeds_that_repeat_them(
    llama_server: str, ask: Callable[..., Any], question: Callable[..., Request]
) -> None:
    """Its own top_k, top_p and min_p apply unless ``body`` says otherwise."""
    asked = [
        question("hue blap 512", max_tokens=32, temperature=1.5, seed=seed, draw=draw)
        for seed in (1, 2)
        for draw in range(5)
    ]
    more = {"body": {"top_k": 0, "top_p": 1, "min_p": 0}, "logprobs": False, "concurrency": 1}
    first, second = (
        [done.text for done in ask("tiny", llama_server, asked, **more)] for _ in range(2)
    )
    assert len(set(first)) > 5
    assert first == second
