"""Tokens on the page: counts beside an independent count, rows by rule, text that stays text, a bounded size."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nfilter.api.types import TokenSample
from nfilter.report import token_page
from nfilter.report.token_page import LONGEST, ROWS
from nfilter.store.run_directory import RunDirectory
from nfilter.store.tokens import write_tokens


def sample(name: str, words: list[str], weight: float = 1.0, prompt: str = "ask:") -> TokenSample:
    """A prompt token, then a word a token; words have the same number wherever they stand."""
    pieces = [prompt, *words]
    ends = np.cumsum([len(piece) for piece in pieces])
    starts = ends - [len(piece) for piece in pieces]
    response = np.arange(len(pieces)) > 0
    return TokenSample(
        id=name, ids=np.array([zlib.crc32(piece.encode()) for piece in pieces]), response=response,
        turn=np.zeros(len(pieces), np.int16), spans=np.stack([starts, ends], 1).astype(np.int32),
        weights=(response * weight).astype(np.float32), text="".join(pieces),
    )  # fmt: skip


def drawn(count: int) -> list[TokenSample]:
    """Rows of 1 to 30 words out of 40, two scores with gaps, two stages that mask at random."""
    rng = np.random.default_rng(5)
    out = []
    for number in range(count):
        words = [f"w{k}" for k in rng.integers(0, 40, rng.integers(1, 31))]
        one = sample(f"row-{number}", words, weight=rng.choice([0.5, 1.0]))
        n = len(one.ids)
        gaps = np.where(one.response & (rng.random(n) < 0.9), rng.normal(size=n), np.nan)
        one = one.score("gap", gaps).score("level", rng.integers(0, 3, n).astype(np.float32))
        one = one.mask(rng.random(n) < rng.random(), 0).mask(rng.random(n) < 0.2, 2)
        out.append(one)
    return out


@pytest.fixture
def run(tmp_path: Path) -> Any:
    def made(samples: list[TokenSample], names: list[str]) -> token_page.TokenPage:
        write_tokens(tmp_path / "tokens", samples, names)
        page = token_page.token_page(RunDirectory(tmp_path))
        assert page is not None
        return page

    return made


def test_counts_are_those_of_a_plain_count(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_page, "_BLOCK", 7)
    samples = drawn(50)
    page = run(samples, ["a.one", "b.two", "c.three"])
    tokens = [
        (int(s.ids[t]), float(s.weights[t]), int(s.reasons[t]), {n: float(v[t]) for n, v in s.scores.items()})
        for s in samples
        for t in range(1, len(s.ids))
    ]  # fmt: skip
    assert (page.response, page.in_loss) == (len(tokens), sum(w > 0 for _, w, _, _ in tokens))
    assert (page.rows, page.rows_left) == (50, sum(s.weights.any() for s in samples))
    first, third = (sum(bits >> bit & 1 for _, _, bits, _ in tokens) for bit in (0, 2))
    assert list(page.reasons) == [("a.one", first, "m0"), ("c.three", third, "m2")]
    for name, chart in page.charts:
        known = [(s[name], w) for _, w, _, s in tokens if s[name] == s[name]]
        assert (chart.count, chart.flagged) == (len(known), sum(w == 0 for _, w in known))
        assert chart.undefined == len(tokens) - len(known)
    assert [name for name, _ in page.charts] == ["gap", "level"]
    by_word: dict[int, list[int]] = {}
    for token, weight, _, _ in tokens:
        by_word.setdefault(token, [0, 0])
        by_word[token][0] += 1
        by_word[token][1] += weight == 0
    order = sorted(by_word, key=lambda token: (-by_word[token][1], token))[: token_page.TEXTS]
    assert [(o.id, o.response, o.masked) for o in page.often] == [
        (token, *by_word[token]) for token in order
    ]
    shown = {s.ids[t]: s.text[slice(*s.spans[t])] for s in samples for t in range(1, len(s.ids))}
    assert [o.shown for o in page.often] == [repr(shown[token]) for token in order]


def test_rows_are_the_most_the_middling_and_the_least_masked(run: Any) -> None:
    samples = []
    for number in range(41):
        one = sample(f"row-{number}", ["x "] * 40)
        samples.append(one.mask(np.arange(41) <= number, 0))
    page = run(samples[::-1], ["a.one"])
    masked = [row.response - row.in_loss for row in page.examples]
    assert len(masked) == ROWS
    assert masked == [39, 38, 37, 36, 21, 20, 19, 18, 3, 2, 1, 0]
    assert page.rows_left == 40  # the row that lost them all is counted, not shown
    few = run(samples[:3], ["a.one"])
    assert [row.id for row in few.examples] == ["row-2", "row-1", "row-0"]


def test_a_long_response_is_cut_and_says_so(run: Any) -> None:
    page = run([sample("long", ["y" * 500] * 900, prompt="p" * 5000)], ["a.one"])
    (row,) = page.examples
    assert (len(row.pieces), row.left_out) == (LONGEST, 900 - LONGEST)
    assert max(len(piece.shown) for piece in row.pieces) <= 80
    assert len(row.prompt) < 350


def test_weights_and_stages_have_their_classes(run: Any) -> None:
    one = sample("x", ["a", "b", "c", "d"]).score("gap", np.array([np.nan, 1.5, -2, np.nan, 0]))
    one = one.weigh(np.array([0, 1, 0.25, 1, 1], np.float32), 0).mask(np.arange(5) == 3, 1)
    (row,) = run([one], ["p.weigh", "q.mask"]).examples
    assert [(piece.shown, piece.style, piece.title) for piece in row.pieces] == [
        ("a", "w4", "weight 1; gap 1.5"),
        ("b", "w1", "weight 0.25; gap -2"),
        ("c", "m1", "masked by q.mask"),
        ("d", "w4", "weight 1; gap 0"),
    ]


def test_a_run_without_token_stages_has_no_such_section(tmp_path: Path) -> None:
    assert token_page.token_page(RunDirectory(tmp_path)) is None
    write_tokens(tmp_path / "tokens", [sample("x", ["a"])], [])
    assert token_page.token_page(RunDirectory(tmp_path)) is None
