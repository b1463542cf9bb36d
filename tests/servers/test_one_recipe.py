"""One recipe over the model here and over real servers that hold the same checkpoint: the same answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

ROWS = 200
RECIPE = f"""\
name: servers
answer: exact
models:
  expert: {{model}}
source: {{use: tiny, rows: {ROWS}, noise: 0.5}}
samples:
  - {{use: robustft.answer, llm: expert, prompt: tiny/answer, into: base, max_tokens: 16}}
  - {{use: robustft.reason, llm: expert, prompt: tiny/reason, rounds: 0, into: reasoning, max_tokens: 80}}
  - {{use: robustft.check, views: [base, reasoning], vote: all}}
"""
HF = "{use: hf, model: tiny}"


@pytest.mark.parametrize("transport", ["aiohttp", "litellm"])
@pytest.mark.parametrize("server", ["transformers_serve", "llama_server"])
def test_the_answers_are_those_of_the_model_here(
    line: Callable[..., str],
    notes_of: Callable[..., Any],
    compared: Callable[..., Any],
    server: str,
    transport: str,
) -> None:
    served = notes_of(RECIPE, line(server, logprobs="false", transport=transport))
    share, differences = compared(notes_of(RECIPE, HF), served)
    assert len(served) == ROWS
    assert len({notes["reasoning"]["answer"] for notes in served.values()}) > 50
    assert share >= 0.99, differences
