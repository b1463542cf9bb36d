"""Selection by IFD: values by hand, the order of ties, what the model is shown."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from nfilter import Encodes, Message, Sample, Scores, TokenSample
from nfilter.testing import FakeContext, FakeTokenizer, check_sample_stage
from nfilter_ifd import Select, SelectConfig

# Per response: losses of its tokens and its end with the prompt, and without it.
LOSSES = {
    "ab": ([1.0, 2.0, 0.0], [2.0, 2.5, 1.5]),  # mean difference -1
    "c": ([1.0, 1.0], [1.5, 1.0]),  # -0.25
    "d": ([1.0, 1.0], [1.0, 1.0]),  # 0: the prompt changes nothing
    "e": ([3.0, 1.0], [1.0, 1.0]),  # +1
    "f": ([0.5, 0.5], [1.0, 0.5]),  # -0.25, as "c"
}


class Table(FakeTokenizer):
    """A tokenizer and a scorer with known losses."""

    def __init__(self) -> None:
        self.alone: list[TokenSample] = []

    def score(self, samples: Any, adapter: Any = None) -> Any:
        out = []
        for sample in samples:
            text = "".join(chr(int(each)) for each in sample.ids[sample.response] if each)
            whole = (~sample.response).sum() > 1
            if not whole and len(sample.ids):
                self.alone.append(sample)
            losses = np.full(len(sample.ids), np.nan, dtype=np.float32)
            if text:
                losses[sample.predicted] = LOSSES[text][0 if whole else 1][: sample.predicted.sum()]
            out.append(losses)
        return out


def pair(response: str, name: str | None = None, **more: Any) -> Sample:
    messages = (Message("user", "why?"), Message("assistant", response))
    return Sample(name or response, messages, **more)


def select(samples: Any = None, **config: Any) -> tuple[list[Sample], Table]:
    model = Table()
    ctx = FakeContext(models={"student": model})
    rows = [pair(text) for text in LOSSES] if samples is None else samples
    return list(check_sample_stage(Select, SelectConfig(**config), rows, ctx)), model


def kept(samples: list[Sample]) -> list[str]:
    return [sample.id for sample in samples if sample.dropped is None]


def test_the_note_is_the_ratio_of_the_perplexities() -> None:
    done, _ = select(keep=1)
    for sample in done:
        text = sample.response
        with_prompt, alone = (math.exp(np.mean(losses)) for losses in LOSSES[text])
        assert sample.notes["ifd"]["ifd"] == pytest.approx(with_prompt / alone, rel=1e-6)
    assert kept(done) == ["ab", "c", "f"]
    assert "does not make the response more likely" in str(done[2].dropped)


@pytest.mark.parametrize(
    ("keep", "names"), [(0.01, ["c"]), (0.2, ["c"]), (0.4, ["c", "f"]), (0.6, ["ab", "c", "f"])]
)
def test_the_highest_below_one_are_kept_and_ties_are_ordered_by_id(
    keep: float, names: list[str]
) -> None:
    done, _ = select(keep=keep)
    assert kept(done) == names
    done, _ = select([pair(text) for text in reversed(LOSSES)], keep=keep)
    assert sorted(kept(done)) == names


def test_the_response_alone_follows_the_first_token() -> None:
    _, model = select([pair("ab")], keep=1)
    assert model.alone[0].ids.tolist() == [ord("w"), ord("a"), ord("b"), 0]
    assert model.alone[0].response.tolist() == [False, True, True, True]


def test_pinned_samples_stay_and_samples_without_a_token_go() -> None:
    cut = Sample("cut", (Message("user", "why? " * 9), Message("assistant", "ab")))
    done, _ = select([pair("e", pinned=True), cut, pair("c")], keep=0.4, max_length=20)
    assert kept(done) == ["e", "c"]
    assert done[1].dropped == "no token of the response has a loss, so it has no IFD"


def test_nothing_helps() -> None:
    done, _ = select([pair("d"), pair("e")], keep=1)
    assert kept(done) == []


def test_the_model_encodes_and_scores() -> None:
    needs = Select.contract(SelectConfig(model="base")).needs
    assert [(need.model, need.capability) for need in needs] == [
        ("base", Encodes),
        ("base", Scores),
    ]
