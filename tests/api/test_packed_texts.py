"""Texts that a state keeps come back as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfilter import PackedTexts

ANY = st.text(st.characters(), max_size=12)


@given(st.lists(ANY, max_size=8))
def test_texts_come_back(texts: list[str]) -> None:
    packed = PackedTexts.open(PackedTexts.of(texts).arrays("queries"), "queries")
    assert [packed[index] for index in range(len(packed))] == texts


def test_half_a_character_and_a_memory_map(tmp_path: Path) -> None:
    texts = ["", "\ud800", "b\x00", "ünï"]
    arrays = PackedTexts.of(iter(texts)).arrays("t")
    for name, values in arrays.items():
        np.save(tmp_path / f"{name}.npy", values)
    mapped = {name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in arrays}
    packed = PackedTexts.open(mapped, "t")
    assert [packed[index] for index in range(4)] == texts
    for beyond in (4, -1):
        with pytest.raises(IndexError, match="of 4"):
            packed[beyond]
