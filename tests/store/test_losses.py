"""Losses are kept, found by what was scored, and survive a kill at any byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nfilter.api.calls import ModelRef
from nfilter.api.types import TokenSample
from nfilter.models.proxy import JournaledModel
from nfilter.store.losses import ScoreCache, ScoreCaches


def tokens(name: str, ids: list[int], response: list[bool]) -> TokenSample:
    n = len(ids)
    mask = np.asarray(response, dtype=bool)
    return TokenSample(
        id=name, ids=np.asarray(ids, dtype=np.int64), response=mask, turn=np.zeros(n, np.int16), spans=np.zeros((n, 2), np.int32),
        weights=mask.astype(np.float32),
    )  # fmt: skip


def losses_of(sample: TokenSample, add: float = 0.0) -> Any:
    """What a model would say: a number that depends on the token, NaN where nothing is predicted."""
    return np.where(sample.predicted, sample.ids / 7 + add, np.nan).astype(np.float32)


SAMPLES = [
    tokens("a", [5, 6, 7], [False, True, True]),
    tokens("first is response", [9, 8], [True, True]),
    tokens("no response", [1, 2], [False, False]),
    tokens("empty", [], []),
    tokens("other mask", [5, 6, 7], [False, False, True]),
]


def test_a_lender_is_read_while_it_grows_and_never_written(tmp_path: Path) -> None:
    lender = ScoreCaches(tmp_path / "lender")
    lender.of("m").put(SAMPLES[:1], [losses_of(SAMPLES[0])])
    # Half an entry, as another process writes it.
    (index,) = (tmp_path / "lender").glob("*.index")
    index.write_bytes(index.read_bytes() + b"half")
    before = index.read_bytes()
    cache = ScoreCaches(tmp_path / "own", lender=tmp_path / "lender").of("m")
    np.testing.assert_array_equal(cache.find(SAMPLES)[0], losses_of(SAMPLES[0]))
    assert [sample.id for sample in cache.lacking(SAMPLES)] == [s.id for s in SAMPLES[1:]]
    cache.put(SAMPLES[1:], [losses_of(sample) for sample in SAMPLES[1:]])
    for sample, found in zip(SAMPLES, cache.find(SAMPLES), strict=True):
        np.testing.assert_array_equal(found, losses_of(sample))
    assert index.read_bytes() == before
    own = ScoreCaches(tmp_path / "own").of("m")
    assert own.find(SAMPLES)[0] is None


def test_scores_of_another_process_are_taken_over_but_for_damaged_ones(tmp_path: Path) -> None:
    mine, theirs = ScoreCaches(tmp_path / "mine"), ScoreCaches(tmp_path / "theirs")
    mine.of("m").put(SAMPLES[:1], [losses_of(SAMPLES[0])])
    theirs.of("m").put(SAMPLES, [losses_of(sample, 1.0) for sample in SAMPLES])
    theirs.of("n").put(SAMPLES[:1], [losses_of(SAMPLES[0], 2.0)])
    damaged = theirs.of("d")
    damaged.put(SAMPLES[:1], [losses_of(SAMPLES[0])])
    (values,) = {*(tmp_path / "theirs").glob("*.f32")} - {
        path
        for path in (tmp_path / "theirs").glob("*.f32")
        if path.read_bytes() != losses_of(SAMPLES[0])[1:].tobytes()
    }
    values.write_bytes(b"\xff" * values.stat().st_size)
    mine.absorb(tmp_path / "theirs")
    for caches in (mine, ScoreCaches(tmp_path / "mine")):
        found = caches.of("m").find(SAMPLES)
        np.testing.assert_array_equal(found[0], losses_of(SAMPLES[0]))
        for sample, losses in list(zip(SAMPLES, found, strict=True))[1:]:
            np.testing.assert_array_equal(losses, losses_of(sample, 1.0))
        np.testing.assert_array_equal(
            caches.of("n").find(SAMPLES[:1])[0], losses_of(SAMPLES[0], 2.0)
        )
        assert caches.of("d").find(SAMPLES[:1]) == [None]


def test_what_was_put_is_found_again_by_content(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path, "m")
    assert cache.find(SAMPLES) == [None] * len(SAMPLES)
    cache.put(SAMPLES, [losses_of(s) for s in SAMPLES])
    for again in (cache, ScoreCache(tmp_path, "m")):
        for sample, found in zip(SAMPLES, again.find(SAMPLES), strict=True):
            np.testing.assert_array_equal(found, losses_of(sample))
    renamed = tokens("another name", [5, 6, 7], [False, True, True])
    np.testing.assert_array_equal(cache.find([renamed])[0], losses_of(renamed))
    assert ScoreCache(tmp_path, "another model").find(SAMPLES) == [None] * len(SAMPLES)


def test_a_file_holds_the_predicted_tokens_and_nothing_twice(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path, "m")
    for _ in range(3):
        cache.put(SAMPLES, [losses_of(s) for s in SAMPLES])
    count = sum(int(s.predicted.sum()) for s in SAMPLES)
    (values,) = tmp_path.glob("*.f32")
    assert values.stat().st_size == 4 * count


@pytest.mark.parametrize("suffix", ["f32", "index"])
def test_losses_that_were_damaged_are_computed_again_and_named(tmp_path: Path, suffix: str) -> None:
    for sample in SAMPLES:
        ScoreCache(tmp_path, "m").put([sample], [losses_of(sample)])
    (file,) = tmp_path.glob(f"*.{suffix}")
    whole = {path: path.read_bytes() for path in tmp_path.iterdir()}
    data = whole[file]
    damages = [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in range(len(data))]
    damages += [data[:5] + b"xyz" + data[5:], data[:9] + data[13:], data[4:] + data[:4]]
    for damaged in damages:
        for path, before in whole.items():
            path.write_bytes(before)
        file.write_bytes(damaged)
        said: list[str] = []
        cache = ScoreCache(tmp_path, "m", said.append)
        found = cache.find(SAMPLES)
        gone = [s for s, losses in zip(SAMPLES, found, strict=True) if losses is None]
        assert gone
        assert any(file.name in text and "computed again" in text for text in said)
        for sample, losses in zip(SAMPLES, found, strict=True):
            if losses is not None:
                np.testing.assert_array_equal(losses, losses_of(sample))
        cache.put(SAMPLES, [losses_of(s) for s in SAMPLES])
        said.clear()
        for sample, losses in zip(
            SAMPLES, ScoreCache(tmp_path, "m", said.append).find(SAMPLES), strict=True
        ):
            np.testing.assert_array_equal(losses, losses_of(sample))
        assert said == []


@pytest.mark.parametrize("suffix", ["f32", "index"])
def test_a_kill_at_any_byte_loses_at_most_what_was_being_written(
    tmp_path: Path, suffix: str
) -> None:
    folder = tmp_path / "whole"
    for sample in SAMPLES[:2]:
        ScoreCache(folder, "m").put([sample], [losses_of(sample)])
    (file,) = folder.glob(f"*.{suffix}")
    data = file.read_bytes()
    for size in range(len(data)):
        file.write_bytes(data[:size])
        cache = ScoreCache(folder, "m")
        for sample, found in zip(SAMPLES, cache.find(SAMPLES), strict=True):
            if found is not None:
                np.testing.assert_array_equal(found, losses_of(sample))
        cache.put(SAMPLES, [losses_of(s) for s in SAMPLES])
        for sample, found in zip(SAMPLES, ScoreCache(folder, "m").find(SAMPLES), strict=True):
            np.testing.assert_array_equal(found, losses_of(sample))
        for part in folder.iterdir():
            part.unlink()
        for sample in SAMPLES[:2]:
            ScoreCache(folder, "m").put([sample], [losses_of(sample)])


class Counting:
    """A backend that scores, and remembers whom it was asked about."""

    name = "counting"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def score(self, samples: Any, adapter: ModelRef | None = None) -> list[Any]:
        self.asked += [s.id for s in samples]
        return [losses_of(s, 1.0 if adapter else 0.0) for s in samples]


def test_a_model_scores_a_sample_once_for_all_stages(tmp_path: Path) -> None:
    backend = Counting()
    caches = ScoreCaches(tmp_path)

    def model(stage: str, fingerprint: str = "f") -> JournaledModel:
        return JournaledModel("student", backend, fingerprint, None, stage, scores=caches)  # type: ignore[arg-type]

    first = model("one").score(SAMPLES[:2])
    both = model("two").score(SAMPLES)
    assert sorted(backend.asked) == sorted(s.id for s in SAMPLES)
    for sample, losses in zip(SAMPLES, both, strict=True):
        np.testing.assert_array_equal(losses, losses_of(sample))
    np.testing.assert_array_equal(first[0], both[0])
    # An adapter, and other weights, are other losses.
    ref = ModelRef("x", "adapter", "base", "digest")
    np.testing.assert_array_equal(
        model("three").score(SAMPLES[:1], ref)[0], losses_of(SAMPLES[0], 1.0)
    )
    model("four", "g").score(SAMPLES[:1])
    assert backend.asked.count("a") == 3
