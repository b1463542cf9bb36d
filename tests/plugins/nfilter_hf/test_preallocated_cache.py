"""Generation with keys and values in place, and a beginning that is read once, against the library's own way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from lent_llama import llama

from nfilter import Message, Request, Sampling
from nfilter_hf.decoding import generation
from nfilter_hf.decoding.preallocated_cache import preallocated_cache, step_attention

OPEN = Callable[..., Any]
TEXTS = ("what is two plus three ?", "name a colour", "the quick brown fox jumps over", "yes")


def asked(count: int = 12, **more: Any) -> list[Request]:
    """Prompts of several lengths with a system turn that all begin with."""
    system = Message("system", "you are a helpful assistant . answer the question")
    return [
        Request(
            (system, Message("user", text)), Sampling(max_tokens=count, temperature=0.0), **more
        )
        for text in TEXTS
    ]


@contextmanager
def everywhere(patch: pytest.MonkeyPatch, *, on: bool) -> Iterator[None]:
    with patch.context() as inside:
        inside.setattr(generation, "can_flatten", lambda _module: on)
        yield


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_answers_and_their_chances_are_those_of_the_librarys_cache(
    checkpoint: Callable[..., Path], open_backend: OPEN, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    backend = open_backend(checkpoint(kind))
    with everywhere(monkeypatch, on=False):
        wanted = backend.generate(asked(40, logprobs=True))
    with everywhere(monkeypatch, on=True):
        got = backend.generate(asked(40, logprobs=True))
    for ours, theirs in zip(got, wanted, strict=True):
        assert (ours.text, ours.finish) == (theirs.text, theirs.finish)
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)


def test_a_block_that_is_outgrown_keeps_what_it_held() -> None:
    cache = preallocated_cache(llama())
    layer = cache.layers[0]
    made = torch.randn(2, 2, 200, 8)
    layer.update(made[:, :, :3], made[:, :, :3])
    for at in range(3, 200):
        new = made[:, :, at : at + 1]
        keys, values = layer.update(new, new)
        assert keys.shape == values.shape
        assert keys.shape[2] > at
        assert torch.equal(keys[:, :, : at + 1], made[:, :, : at + 1])
        assert layer.get_seq_length() == at + 1
    layer.batch_select_indices(torch.tensor([1]))
    keys, _ = layer.update(made[1:, :, :1], made[1:, :, :1])
    assert torch.equal(keys[:, :, :200], made[1:])
    assert torch.equal(keys[:, :, 200], made[1:, :, 0])
    assert not keys[:, :, 201:].any()


def test_bfloat16_takes_it_and_float32_does_not(
    checkpoint: Callable[..., Path], open_backend: OPEN, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    def noted(module: Any) -> Any:
        made.append(preallocated_cache(module))
        return made[-1]

    monkeypatch.setattr(generation, "preallocated_cache", noted)
    open_backend(checkpoint()).generate(asked())
    assert not made
    backend = open_backend(checkpoint(), dtype="bfloat16")
    before = backend._load().module.config._attn_implementation
    found = backend.generate(asked())
    assert len(made) == 1
    assert all(one.failure is None for one in found)
    assert backend._load().module.config._attn_implementation == before


def test_what_all_begin_with_is_read_once(
    checkpoint: Callable[..., Path], open_backend: OPEN, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = open_backend(checkpoint(), dtype="bfloat16")
    module = backend._load().module
    shapes: list[tuple[int, ...]] = []
    handle = module.base_model.register_forward_pre_hook(
        lambda _module, _args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)),
        with_kwargs=True,
    )
    backend.generate(asked(3))
    handle.remove()
    (rows, first), (many, rest), *steps = shapes
    assert (rows, many) == (1, len(TEXTS))
    assert first > rest
    assert all(shape[1] == 1 for shape in steps)


def test_a_greedy_answer_without_logprobs_is_the_same_and_what_is_not_finite_fails(
    checkpoint: Callable[..., Path], open_backend: OPEN
) -> None:
    backend = open_backend(checkpoint())
    plain, told = backend.generate(asked()), backend.generate(asked(logprobs=True))
    assert [one.text for one in plain] == [one.text for one in told]
    broken = open_backend(checkpoint())
    with torch.no_grad():
        broken._load().module.get_output_embeddings().weight[5] = torch.nan
    (one, *_) = broken.generate(asked())
    assert one.failure is not None
    assert "not finite" in one.failure.detail


def test_a_cache_of_another_kind_is_left_to_the_library(
    checkpoint: Callable[..., Path], open_backend: OPEN
) -> None:
    assert preallocated_cache(open_backend(checkpoint("gemma2"))._load().module) is None
    module = open_backend(checkpoint())._load().module
    before = module.config._attn_implementation
    with step_attention(module):
        assert module.config._attn_implementation != before
    assert module.config._attn_implementation == before
