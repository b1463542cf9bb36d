"""Tokens on disk: read back as they were, and turned away from another tokenizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nfilter import TokenizerDigest, TokenSample
from nfilter.store.tokens import read_tokens, tokenizer_of, write_tokens

MADE = {"tokenizer": "a" * 64, "template": "c" * 64}


def sample(name: str, size: int) -> TokenSample:
    starts = np.arange(size, dtype=np.int32)
    mask = starts % 2 == 1
    return TokenSample(
        name, starts.astype(np.int64), mask, starts.astype(np.int16), np.stack([starts, starts + 1], axis=1),
        mask.astype(np.float32), text="x" * size, cut=np.arange(size + 1) % 2 == 0,
    ).score("s", starts.astype(np.float32))  # fmt: skip


def test_what_was_written_is_read(tmp_path: Path) -> None:
    written = [sample("a", 5), sample("b", 0), sample("c", 2)]
    write_tokens(tmp_path / "t", written, ["one"], tokenizer=MADE)
    found, reasons = read_tokens(tmp_path / "t")
    assert reasons == ["one"]
    assert [one.id for one in found] == ["a", "b", "c"]
    for one, other in zip(found, written, strict=True):
        for name in ("ids", "response", "turn", "spans", "weights", "reasons", "cut"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        np.testing.assert_array_equal(one.scores["s"], other.scores["s"])
        assert one.text == other.text
    assert tokenizer_of(tmp_path / "t") == TokenizerDigest(**MADE)


def test_tokens_of_an_unknown_tokenizer_have_no_digest(tmp_path: Path) -> None:
    write_tokens(tmp_path / "t", [sample("a", 5)], [])
    assert tokenizer_of(tmp_path / "t") is None


@pytest.mark.parametrize("name", ["a/b", "../../a", "a b", "ä%2F", "."])
def test_a_score_may_have_any_name_and_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    one = sample("a", 3).score(name, np.array([1, 2, 3], np.float32))
    write_tokens(tmp_path / "in" / "t", [one], [])
    (found,), _ = read_tokens(tmp_path / "in" / "t")
    assert found.scores[name].tolist() == [1, 2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["t"]
