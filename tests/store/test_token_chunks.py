"""Token samples on disk chunk by chunk: read back as they were, and nothing is written twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nfilter import TokenSample
from nfilter.api.errors import DamageError
from nfilter.store.token_chunks import open_tokens


def sample(name: str, size: int, **more: Any) -> TokenSample:
    starts = np.arange(size, dtype=np.int32)
    mask = starts % 2 == 1
    return TokenSample(
        name, starts.astype(np.int64), mask, starts.astype(np.int16), np.stack([starts, starts + 1], axis=1),
        mask.astype(np.float32), text=f"{name} \U0001f600" * size, cut=np.arange(size % 3) == 0, **more,
    )  # fmt: skip


def same(one: TokenSample, other: TokenSample) -> None:
    assert (one.id, one.text, one.remarks) == (other.id, other.text, ())
    for name in ("ids", "response", "turn", "spans", "weights", "reasons", "cut"):
        a, b = getattr(one, name), getattr(other, name)
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    assert one.scores.keys() == other.scores.keys()
    for name, values in one.scores.items():
        np.testing.assert_array_equal(values, other.scores[name])


def names_in(path: Path) -> set[str]:
    with np.load(path, allow_pickle=False) as file:
        return set(file.files)


ENCODED = [sample("a", 5), sample("ä/b", 0), sample("c", 4), sample("d", 1)]
FIXED = {
    "names_bytes", "names_ends", "texts_bytes", "texts_ends", "ends", "cut_ends", "ids", "response", "turn", "spans", "cut",
}  # fmt: skip


def test_what_encoding_wrote_is_read(tmp_path: Path) -> None:
    artefact = open_tokens(tmp_path / "01-encode")
    artefact.begin({})
    light = ENCODED[0].weigh(np.full(5, 0.5, np.float32), 0)
    artefact.write_chunk(0, ENCODED, [])
    artefact.write_chunk(1, [], [])
    artefact.write_chunk(2, [light], [])
    chunks = list(open_tokens(tmp_path / "01-encode").chunks())
    for chunk, wanted in zip(chunks, [ENCODED, [], [light]], strict=True):
        for one, other in zip(chunk, wanted, strict=True):
            same(one, other)
    # Weights are written where they are other than 1 at every token of a response.
    assert names_in(artefact.directory / "chunk-000000.npz") == FIXED
    assert names_in(artefact.directory / "chunk-000002.npz") == {*FIXED, "weights"}


def test_ids_that_need_eight_bytes_keep_them(tmp_path: Path) -> None:
    large = np.array([1, 2**40], np.int64)
    one = TokenSample(
        "a", large, np.ones(2, bool), np.zeros(2, np.int16), np.zeros((2, 2), np.int32), np.ones(2, np.float32),
    )  # fmt: skip
    artefact = open_tokens(tmp_path / "01-encode")
    artefact.begin({})
    artefact.write_chunk(0, [one], [])
    (found,) = artefact.samples()
    assert found.ids.tolist() == [1, 2**40]


def test_a_stage_writes_what_it_changed_and_reads_the_rest(tmp_path: Path) -> None:
    artefacts = [open_tokens(tmp_path / "01-encode")]
    versions = [ENCODED]
    scored = [each.score("x/y", np.arange(len(each.ids), dtype=np.float32)) for each in ENCODED]
    # One sample alone gets this score, and another loses tokens.
    partly = [*scored[:2], scored[2].score("one", np.full(4, np.nan, np.float32)), scored[3]]
    masked = [partly[0].mask(np.array([False, True, False, False, False]), 2), *partly[1:]]
    for number, version in enumerate((scored, partly, masked, masked), start=2):
        artefacts.append(open_tokens(tmp_path / f"{number:02d}-s.x", artefacts[-1]))
        versions.append(version)
    for artefact, version in zip(artefacts, versions, strict=True):
        artefact.begin({})
        artefact.write_chunk(0, version, [])
    for artefact, version in zip(artefacts, versions, strict=True):
        for one, other in zip(artefact.chunk(0), version, strict=True):
            same(one, other)
    written = [names_in(artefact.directory / "chunk-000000.npz") for artefact in artefacts[1:]]
    assert written == [
        {"score-x%2Fy"},
        {"score-one", "rows-score-one"},
        {"weights", "reasons"},
        set(),
    ]


def test_a_replaced_score_is_written_anew(tmp_path: Path) -> None:
    before = open_tokens(tmp_path / "01-encode")
    after = open_tokens(tmp_path / "02-s.x", before)
    one = ENCODED[0].score("s", np.ones(5, np.float32))
    other = ENCODED[0].score("s", np.array([1, 1, 1, 1, 2], np.float32))
    for artefact, version in ((before, one), (after, other)):
        artefact.begin({})
        artefact.write_chunk(0, [version], [])
    assert next(before.samples()).scores["s"].tolist() == [1, 1, 1, 1, 1]
    assert next(after.samples()).scores["s"].tolist() == [1, 1, 1, 1, 2]


def test_equal_samples_make_equal_bytes(tmp_path: Path) -> None:
    data = []
    for name in ("one", "two"):
        artefact = open_tokens(tmp_path / name)
        artefact.begin({})
        artefact.write_chunk(0, ENCODED, [])
        data.append((artefact.directory / "chunk-000000.npz").read_bytes())
    assert data[0] == data[1]


def test_a_damaged_chunk_is_named_by_whoever_reads_it(tmp_path: Path) -> None:
    before = open_tokens(tmp_path / "01-encode")
    after = open_tokens(tmp_path / "02-s.x", before)
    for artefact in (before, after):
        artefact.begin({})
        artefact.write_chunk(0, ENCODED, [])
    file = before.directory / "chunk-000000.npz"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    for artefact in (before, after):
        with pytest.raises(DamageError, match=r"01-encode/chunk-000000\.npz: has other bytes"):
            artefact.chunk(0)
