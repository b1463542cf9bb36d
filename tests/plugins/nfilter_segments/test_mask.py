"""segments.mask: where segments are cut, attributions against the model, the rule by hand, and the control."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from nfilter import Attributes, LendsModule, Message, Sample, Scores, TokenSample
from nfilter.testing import FakeContext, FakeScorer, FakeTokenizer, check_token_stage, token_sample
from nfilter_hf.attribution import read_attributions
from nfilter_segments.entropy import entropies
from nfilter_segments.mask import WORDS, Mask, MaskConfig, important
from nfilter_segments.split import split

TEXT = "<think>\nfirst\n\nsame\n\nWait, two\nWait\n\n\n but three\n\nHmmm</think>\n\n42"


def llama(pad: int | None = 1) -> Any:
    torch.manual_seed(0)
    module = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=128, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, initializer_range=0.3, pad_token_id=pad,
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        module.get_input_embeddings().weight[1] = torch.randn(32) * 0.3
    return module


class Lender:
    def __init__(self, module: Any) -> None:
        self.module = module

    @contextmanager
    def lend(self) -> Iterator[Any]:
        yield SimpleNamespace(module=self.module)

    def attributions(self, samples: Any, select: Any, steps: int) -> Iterator[Any]:
        return read_attributions(self.module, samples, select, steps)


def texts(text: str, words: tuple[str, ...] = WORDS) -> tuple[list[str], str]:
    sample = token_sample("a", text)
    parts = split(sample, words)
    read = ["".join(sample.text[i] for i in part) for part in (*parts.segments, parts.answer)]
    return read[:-1], read[-1]


def test_segments_begin_at_blank_lines_before_a_word_that_opens_a_thought() -> None:
    segments, answer = texts(TEXT)
    assert segments == ["<think>\nfirst\n\nsame", "\n\nWait, two\nWait", "\n\n\n but three\n\nHmmm"]
    assert answer == "\n\n42\0"
    assert texts(TEXT, ("same", "hmmm"))[0] == [
        "<think>\nfirst", "\n\nsame\n\nWait, two\nWait\n\n\n but three", "\n\nHmmm",
    ]  # fmt: skip


def test_without_a_mark_the_answer_is_the_last_line_with_text() -> None:
    assert texts("one\n\nWait two\n#### 42") == (["one", "\n\nWait two\n"], "#### 42\0")
    assert texts("42") == ([], "42\0")
    assert texts("one\n[/THINK]4[/THINK]\n\nWait. 5") == (["one\n[/THINK]4"], "\n\nWait. 5\0")
    assert texts("\n\n</think>")[1] == "\0"
    assert split(token_sample("a", ""), WORDS).reasoning.tolist() == []


def test_a_long_run_of_blank_lines_is_read_once() -> None:
    sample = Sample("a", (Message("assistant", "a" + "\n" * 100_000 + "Wait\nb"),))
    (one,) = FakeTokenizer().encode([sample], max_length=1_000_000)
    assert [len(part) for part in split(one, WORDS).segments] == [1, 100_005]


def test_a_sample_that_was_cut_has_no_parts() -> None:
    sample = Sample("a", (Message("user", "q"), Message("assistant", "a\n\nWait\nb")))
    whole, cut = (FakeTokenizer().encode([sample], max_length=n)[0] for n in (100, 9))
    assert len(split(whole, WORDS).segments) == 2
    assert cut.response.any()
    assert split(cut, WORDS).segments == ()
    assert split(cut, WORDS).answer.tolist() == []


def test_only_the_last_turn_is_divided() -> None:
    turns = [("user", "q"), ("assistant", "a\n\nWait\nb"), ("user", "r"), ("assistant", "c\nd")]
    sample = Sample("a", tuple(Message(role, text) for role, text in turns))  # type: ignore[arg-type]
    (one,) = FakeTokenizer().encode([sample])
    parts = split(one, WORDS)
    assert "".join(one.text[i] for i in (*parts.reasoning, *parts.answer)) == "c\nd\0"


def test_entropies_are_those_of_whole_predictions() -> None:
    module, sample = llama(), token_sample("a", "abc")
    with torch.no_grad():
        p = module(input_ids=torch.from_numpy(sample.ids)[None]).logits[0].double().softmax(-1)
    wanted = -(p * p.log()).sum(-1).numpy()
    at = np.flatnonzero(sample.predicted)
    got = entropies(module, sample)
    np.testing.assert_allclose(got[at], wanted[at - 1], rtol=1e-4)
    assert np.isnan(got[~sample.predicted]).all()


# Strengths 1, 8, 4, 6, 1: shares .05, .4, .2, .3, .05. The second has consistency 1, the fourth (9 - 3) / 12 = .5.
VALUES = [
    np.array([1.0]),
    np.array([8.0, 8.0, 0.0, 0.0]),
    np.array([-4.0]),
    np.array([5.0, -3.0, 4.0, 0.0]),
    np.array([-1.0]),
]


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        ({"consistency": 1}, [0, 1, 3, 4]),
        ({}, [0, 3, 4]),
        ({"consistency": 0.5}, [0, 3, 4]),
        ({"consistency": 0.49}, [0, 4]),
        ({"ends": False}, [3]),
        ({"keep": 0.4, "consistency": 1, "ends": False}, [1]),
        ({"keep": 0.71, "consistency": 1}, [0, 1, 2, 3, 4]),
        ({"keep": 0.95, "consistency": 1, "ends": False}, [0, 1, 2, 3]),
        ({"by": "entropy"}, [0, 1, 3, 4]),
    ],
)
def test_important_segments_are_strong_and_of_mixed_direction(
    config: dict[str, Any], kept: list[int]
) -> None:
    shares, found = important(VALUES, MaskConfig(**config))
    np.testing.assert_allclose(shares, [0.05, 0.4, 0.2, 0.3, 0.05])
    assert np.flatnonzero(found).tolist() == kept


def test_without_strength_or_reasoning_all_is_kept() -> None:
    assert important([np.zeros(3), np.zeros(1)], MaskConfig(ends=False))[1].all()
    assert important([], MaskConfig())[1].tolist() == []


def masked(sample: TokenSample) -> str:
    return "".join(sample.text[i] for i in np.flatnonzero(sample.response & (sample.weights == 0)))


LOSSES = {"a": 1.0, "b": 9.0, "c": 2.0, "d": 5.0}


def by_letter(sample: TokenSample) -> np.ndarray:
    return np.array([LOSSES.get(chr(code), 0.0) for code in sample.ids], dtype=np.float32)


def run(samples: list[TokenSample], model: Any = None, **config: Any) -> list[TokenSample]:
    ctx = FakeContext(models={"student": model or FakeScorer(by_letter)})
    return check_token_stage(Mask, MaskConfig(**config), samples, ctx, bit=3)[0]


LONG = "aa\n\nWait bbbb\n\nBut cccc\n\nHmm c\n\nWait dd\n#### 42"


def test_weak_segments_leave_the_loss_by_loss() -> None:
    (one,) = run([token_sample("a", LONG)], by="loss", keep=0.6)
    assert masked(one) == "\n\nBut cccc\n\nHmm c"
    assert one.reasons[one.weights == 0].max() == 1 << 3
    shares = one.scores["segments"]
    assert sum(dict.fromkeys(shares[~np.isnan(shares)].tolist())) == pytest.approx(1)
    assert not np.isnan(shares[one.text.index("a")])
    assert np.isnan(shares[one.text.index("#") :]).all()
    # All tokens of the strongest segment have its share.
    at = slice(one.text.index("Wait b"), one.text.index("\n\nBut"))
    assert len(set(shares[at].tolist())) == 1
    (all_kept,) = run([token_sample("a", "42")], by="loss")
    assert masked(all_kept) == ""


def test_the_control_masks_as_many_tokens_of_other_segments() -> None:
    samples = [token_sample(f"{i}", LONG) for i in range(20)]
    chosen = run(samples, by="loss", keep=0.6)
    drawn = run(samples, by="loss", keep=0.6, random=True)
    assert [len(masked(one)) for one in drawn] == [len(masked(one)) for one in chosen]
    found = {masked(one) for one in drawn}
    assert len(found) > 3
    inner = LONG[LONG.index("\n\nWait") : LONG.index("\n\nWait dd")]
    assert all(set(each) <= set(inner) for each in found)
    assert any("b" in each for each in found)


def test_attributions_and_entropies_come_from_a_lent_module() -> None:
    for by in ("attribution", "entropy"):
        config = {"by": by, "steps": 4, "keep": 0.3, "ends": False, "consistency": 1.0}
        (one,) = run([token_sample("a", LONG)], Lender(llama()), **config)
        parts = split(one, WORDS)
        both = (parts.reasoning, parts.answer)
        (found,) = (
            read_attributions(llama(), [one], lambda _, both=both: both, 4)  # type: ignore[misc]
            if by == "attribution"
            else [entropies(llama(), one)]
        )
        kept = important([found[part] for part in parts.segments], MaskConfig(**config))[1]
        assert 0 < kept.sum() < len(kept)
        assert [(one.weights[part] != 0).all() for part in parts.segments] == kept.tolist()
        assert (one.weights[parts.answer] == 1).all()


def test_the_contract_names_what_each_way_needs() -> None:
    need = {
        by: Mask.contract(MaskConfig(by=by, model="m")).needs[0]  # type: ignore[arg-type]
        for by in ("attribution", "entropy", "loss")
    }
    assert {by: each.capability for by, each in need.items()} == {
        "attribution": Attributes, "entropy": LendsModule, "loss": Scores,
    }  # fmt: skip
    assert need["loss"].model == "m"
    assert Mask.contract(MaskConfig(into="x")).writes == {"x"}
