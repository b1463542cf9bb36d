"""The response token by token: pieces of the text, who took what out, scores, and nothing that steers a terminal."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from nfilter.api.types import TokenSample
from nfilter.report.tokens import as_json, render, summary, tokens_of
from nfilter.store.files import write_jsonl
from nfilter.store.run_directory import RunDirectory
from nfilter.store.tokens import write_tokens

TEXT = "ask: hé\x1b[2J no"
SPANS = [(0, 4), (4, 6), (6, 7), (6, 7), (7, 11), (11, 14), (14, 14)]


def sample(name: str = "x") -> TokenSample:
    """A prompt token, then six of a response: an accent of two tokens, an escape sequence, an end token."""
    n = len(SPANS)
    response = np.arange(n) > 0
    return TokenSample(
        id=name, ids=np.arange(n) + 10, response=response, turn=np.zeros(n, np.int16),
        spans=np.array(SPANS, np.int32), weights=response.astype(np.float32), text=TEXT,
        scores={"gap": np.array([np.nan, 0.5, -2.0, np.nan, -0.001, 1.25, 9.0], np.float32)},
    )  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    out = [False, False, True, True, False, True, False]
    first = sample().mask(np.array(out), 0).mask(np.array([False] * 5 + [True, True]), 1)
    write_tokens(tmp_path / "tokens", [sample("other"), first], ["cut.low", "cut.end"])
    return RunDirectory(tmp_path)


def test_each_token_has_its_piece_its_stages_and_its_scores(run: RunDirectory) -> None:
    tokens = tokens_of(run, "x")
    assert tokens is not None
    assert [token.piece for token in tokens] == [" h", "é", "", "\x1b[2J", " no", ""]
    assert "".join(token.piece for token in tokens) == TEXT[4:]
    assert [token.id for token in tokens] == [11, 12, 13, 14, 15, 16]
    assert [token.by for token in tokens] == [
        (), ("cut.low",), ("cut.low",), (), ("cut.low", "cut.end"), ("cut.end",)
    ]  # fmt: skip
    assert [token.weight for token in tokens] == [1, 0, 0, 1, 0, 0]
    assert [dict(token.scores) for token in tokens][1:3] == [{"gap": -2.0}, {}]
    assert summary(tokens) == {
        "response": 6, "in_loss": 2, "masked_by": {"cut.low": 3, "cut.end": 2}
    }  # fmt: skip
    assert json.loads(json.dumps(as_json(tokens)))[4]["masked_by"] == ["cut.low", "cut.end"]


def test_who_is_not_there_has_none(run: RunDirectory, tmp_path: Path) -> None:
    assert tokens_of(run, "nobody") is None
    assert tokens_of(RunDirectory(tmp_path / "empty"), "x") is None


def test_a_run_without_texts_shows_numbers(run: RunDirectory, written: Any) -> None:
    rows = [{"id": name, "text": ""} for name in ("other", "x")]
    write_jsonl(run.path / "tokens" / "texts.jsonl", rows)
    written(run.path)
    tokens = tokens_of(run, "x")
    assert tokens is not None
    assert {token.piece for token in tokens} == {""}
    assert "#15" in shown(tokens)


def shown(tokens: object, *, colour: bool = False) -> str:
    out = io.StringIO()
    console = Console(
        file=out, width=80, force_terminal=colour, color_system="standard" if colour else None
    )
    render(tokens, console)  # type: ignore[arg-type]
    return out.getvalue()


def test_the_screen_says_it_in_words_too(run: RunDirectory) -> None:
    screen = shown(tokens_of(run, "x"))
    assert "2 of 6 tokens are in the loss; cut.low masked 3; cut.end masked 2" in screen
    rows = {line.split()[0]: line.split()[1:] for line in screen.splitlines() if "'" in line}
    assert rows["'é'"] == ["cut.low", "0", "-2.00"]
    assert rows["'"] == ["no'", "cut.low,", "cut.end", "0", "1.25"]
    assert "\x1b" not in screen
    assert "\\x1b[2J" in screen


def test_what_is_out_is_struck_through_in_the_colour_of_its_stage(run: RunDirectory) -> None:
    screen = shown(tokens_of(run, "x"), colour=True)
    assert "\x1b[9;31mé" in screen  # struck through, red: the first stage
    assert "\x1b[2J" not in screen
