"""Losses and embeddings against references computed here, one text at a time."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

import nfilter_hf.loss
from nfilter import CutTexts, Message, ModelError, Request, Sample, Sampling, TokenSample
from nfilter_hf import scoring
from nfilter_hf.config import HFConfig, scoring_tokens
from nfilter_hf.templates.prompts import prompt_ids

TEXTS = [
    "what",
    "two plus three ?",
    "the quick brown fox jumps over the lazy dog . " * 3,
    "red",
    "blue green",
]


def samples() -> list[Sample]:
    return [
        Sample(
            f"s{i}",
            (
                Message("user", text), Message("assistant", "it is " + text),
                Message("user", "again"), Message("assistant", "yes " * (i + 1)),
            ),
        )
        for i, text in enumerate(TEXTS)
    ]  # fmt: skip


def reference(module: Any, ids: Any) -> np.ndarray:
    """-log p in float64, unbatched and unpadded."""
    double = copy.deepcopy(module).double()
    with torch.no_grad():
        logits = double(torch.tensor(ids.tolist())[None]).logits[0].double()
    losses = -logits.log_softmax(-1)[:-1].gather(1, torch.tensor(ids.tolist())[1:, None]).squeeze(1)
    return np.concatenate([[np.nan], losses.numpy()])


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2", "gemma2"])
@pytest.mark.parametrize("turns", ["all", "last"])
def test_scores_equal_an_unbatched_float64_reference(backend: Any, kind: str, turns: str) -> None:
    model = backend(kind)
    encoded = model.encode(samples(), max_length=200, turns=turns)
    for sample, got in zip(encoded, model.score(encoded), strict=True):
        wanted = np.where(sample.response, reference(model._load().module, sample.ids), np.nan)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, wanted, atol=1e-5)
        assert np.isnan(got[0])


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_a_vocabulary_in_blocks_gives_the_same_losses(
    checkpoint: Any, open_backend: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    seen = []
    inner = nfilter_hf.loss.block_losses

    def watched(hidden: Any, labels: Any, matrix: Any) -> Any:
        seen.append(len(labels))
        return inner(hidden, labels, matrix)

    monkeypatch.setattr(nfilter_hf.loss, "block_losses", watched)
    monkeypatch.setattr(nfilter_hf.loss, "_COLUMNS", 64)
    monkeypatch.setattr(nfilter_hf.loss, "_ROWS", 7)
    model = open_backend(checkpoint(kind))
    encoded = model.encode(samples(), max_length=200, turns="all")
    for sample, got in zip(encoded, model.score(encoded), strict=True):
        wanted = np.where(sample.response, reference(model._load().module, sample.ids), np.nan)
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    # Gemma 2 caps its logits behind the product, which is then left to the head.
    assert (sum(seen) == sum(s.predicted.sum() for s in encoded)) == (kind != "gemma2")


@pytest.mark.parametrize("size", [1e-3, 1.0, 300.0])
def test_blocks_hold_at_logits_of_any_size_and_at_their_borders(size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(600, 16, generator=generator) * size
    matrix = torch.randn(2500, 16, generator=generator)
    labels = torch.randint(0, 2500, (600,), generator=generator)
    labels[:6] = torch.tensor([0, 1023, 1024, 2047, 2048, 2499])
    logits = hidden.double() @ matrix.double().T
    wanted = -logits.log_softmax(-1).gather(1, labels[:, None])[:, 0]
    got = nfilter_hf.loss.block_losses(hidden, labels, matrix)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), wanted, rtol=2e-6, atol=2e-6 * max(1.0, size))
    halves = nfilter_hf.loss.block_losses(hidden.bfloat16(), labels, matrix.bfloat16())
    rounded = nfilter_hf.loss.token_losses(hidden.bfloat16() @ matrix.bfloat16().T, labels)
    torch.testing.assert_close(halves, rounded, rtol=1e-2, atol=1e-2 * max(1.0, size))
    assert len(nfilter_hf.loss.block_losses(hidden[:0], labels[:0], matrix)) == 0


def test_scores_do_not_depend_on_batch_order_or_chunks(
    checkpoint: Any, backend: Any, open_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = backend().encode(samples(), max_length=200, turns="all")
    wanted = backend().score(encoded)
    small = open_backend(checkpoint(), batch_tokens=150)
    for got, expected in zip(small.score(encoded[::-1]), wanted[::-1], strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)
    for name in ("ON_CPU", "ELSEWHERE"):
        monkeypatch.setattr(nfilter_hf.loss, name, 1500)
    for got, expected in zip(backend().score(encoded), wanted, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_the_head_runs_only_where_a_loss_is_wanted(
    checkpoint: Any, open_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_backend(checkpoint())
    encoded = model.encode(samples(), max_length=200, turns="last")
    seen: list[tuple[int, ...]] = []
    handle = model._load().module.lm_head.register_forward_hook(
        lambda module, inputs, output: seen.append(tuple(output.shape[:-1]))
    )
    for name in ("ON_CPU", "ELSEWHERE"):
        monkeypatch.setattr(nfilter_hf.loss, name, 10 * model._load().module.config.vocab_size)
    model.score(encoded)
    handle.remove()
    probe, rest = seen[:2], seen[2:]
    assert probe == [(1, 4), (1, 4)]
    assert max(shape[0] for shape in rest) <= 10
    assert all(len(shape) == 1 for shape in rest)
    assert sum(shape[0] for shape in rest) == sum(int(s.response[1:].sum()) for s in encoded)


def test_an_unknown_head_is_left_to_the_model(
    backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = backend("gemma2").encode(samples(), max_length=200, turns="all")
    wanted = backend("gemma2").score(encoded)
    # A head without the soft cap of this architecture does not give the model's logits, and is not used.
    monkeypatch.setattr(scoring, "output_head", lambda module: module.get_output_embeddings())
    assert scoring._checked_head(backend("gemma2")._load()) is None
    for got, expected in zip(backend("gemma2").score(encoded), wanted, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_nothing_predicts_the_first_token(backend: Any) -> None:
    ids = np.array([5, 40, 41, 42])
    all_response = TokenSample(
        "a",
        ids,
        np.ones(4, bool),
        np.zeros(4, np.int16),
        np.zeros((4, 2), np.int32),
        np.ones(4, np.float32),
    )
    got = backend().score([all_response])[0]
    np.testing.assert_allclose(got, reference(backend()._load().module, ids), atol=1e-5)
    assert np.isnan(got).tolist() == [True, False, False, False]


def test_scores_of_nothing(backend: Any) -> None:
    model = backend()
    assert model.score([]) == []
    encoded = model.encode([Sample("a", (Message("user", "x"),))], max_length=99, turns="all")
    assert np.isnan(model.score(encoded)[0]).all()
    empty = model.encode([Sample("b", ())], max_length=99, turns="all")
    assert model.score(empty)[0].shape == (0,)


@pytest.mark.types("set encode.max_length to «» or less")
def test_a_sample_past_the_context_is_an_error_with_a_remedy(
    checkpoint: Any, backend: Any, open_backend: Any
) -> None:
    encoded = backend().encode(samples(), max_length=200, turns="all")
    with pytest.raises(ModelError, match=r"encode\.max_length to 30"):
        open_backend(checkpoint(), max_length=30).score(encoded)
    small = open_backend(checkpoint(), max_length=30)
    assert len(small.score(small.encode(samples(), max_length=30, turns="all"))) == len(encoded)


def test_generated_logprobs_are_the_scores_of_the_same_tokens(backend: Any) -> None:
    """Eq. 7 two ways: from the pass that generated, and from scoring what was generated."""
    model = backend()
    loaded = model._load()
    request = Request((Message("user", "name a colour"),), Sampling(max_tokens=16), logprobs=True)
    got = model.generate([request])[0]
    prompt = prompt_ids(loaded, request)
    ids = loaded.module.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=16,
        do_sample=False, pad_token_id=2,
    )[0].numpy()  # fmt: skip
    response = np.arange(len(ids)) >= len(prompt)
    sample = TokenSample(
        "a", ids, response, np.zeros(len(ids), np.int16), np.zeros((len(ids), 2), np.int32),
        response.astype(np.float32),
    )  # fmt: skip
    losses = model.score([sample])[0][response]
    assert len(losses) == got.completion_tokens
    np.testing.assert_allclose(-np.asarray(got.logprobs), losses, atol=1e-5)
    assert got.nll == pytest.approx(float(losses.mean()), abs=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
def test_embeddings_are_means_of_the_last_hidden_states(backend: Any, kind: str) -> None:
    model = backend(kind)
    loaded = model._load()
    got = model.embed(TEXTS)
    assert got.dtype == np.float32
    assert got.shape == (len(TEXTS), 32)
    double = copy.deepcopy(loaded.module).double()
    for text, vector in zip(TEXTS, got, strict=True):
        ids = torch.tensor([loaded.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            wanted = double(ids, output_hidden_states=True).hidden_states[-1][0].mean(0)
        np.testing.assert_allclose(vector, wanted.numpy(), atol=1e-5)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_embeddings_of_a_layer(checkpoint: Any, open_backend: Any, layer: int) -> None:
    model = open_backend(checkpoint(), embed_layer=layer)
    loaded = model._load()
    assert loaded.module.config.num_hidden_layers == 2
    for text, vector in zip(TEXTS, model.embed(TEXTS), strict=True):
        ids = torch.tensor([loaded.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            states = loaded.module(ids, output_hidden_states=True).hidden_states[layer][0]
        np.testing.assert_allclose(vector, states.mean(0).numpy(), atol=1e-5)
    if layer == 0:
        rows = loaded.module.get_input_embeddings().weight[ids[0]]
        np.testing.assert_allclose(vector, rows.mean(0).detach().numpy(), atol=1e-6)


def test_a_layer_is_named_by_its_share_of_the_depth(checkpoint: Any, open_backend: Any) -> None:
    first = open_backend(checkpoint(), embed_layer=1).embed(TEXTS)
    np.testing.assert_array_equal(open_backend(checkpoint(), embed_layer=0.5).embed(TEXTS), first)
    np.testing.assert_array_equal(open_backend(checkpoint(), embed_layer=0.1).embed(TEXTS), first)
    with pytest.raises(ValidationError):
        open_backend(checkpoint(), embed_layer=1.5)


def test_a_layer_that_the_model_has_not_is_refused(checkpoint: Any, open_backend: Any) -> None:
    with pytest.raises(ModelError, match=r"embed_layer 3: the model has layers 0 to 2"):
        open_backend(checkpoint(), embed_layer=3).embed(["a"])


def test_embeddings_do_not_depend_on_batch_or_order(
    checkpoint: Any, backend: Any, open_backend: Any
) -> None:
    wanted = backend().embed(TEXTS)
    np.testing.assert_allclose(backend().embed(TEXTS[::-1])[::-1], wanted, atol=1e-5)
    np.testing.assert_allclose(
        open_backend(checkpoint(), batch_tokens=1).embed(TEXTS), wanted, atol=1e-5
    )


@pytest.mark.parametrize("style", ["chatml", "llama3"])
@pytest.mark.parametrize("window", ["head", "tail", "mean"])
def test_embeddings_of_a_text_longer_than_the_context(
    checkpoint: Any, open_backend: Any, window: str, style: str
) -> None:
    model = open_backend(checkpoint("llama", style), embed_window=window, max_length=16)
    loaded = model._load()
    text = "what is the quick brown fox, and is it red or green at all? " * 2
    ids = loaded.tokenizer(text)["input_ids"]
    assert len(ids) > 40
    begin = ids[: style == "llama3"]  # only this tokenizer begins texts with a token of its own
    size, rest = 16 - len(begin), ids[len(begin) :]
    parts = {
        "head": [ids[:16]],
        "tail": [begin + rest[-size:]],
        "mean": [begin + rest[at : at + size] for at in range(0, len(rest), size)],
    }[window]
    with torch.no_grad():
        states = [
            loaded.module(torch.tensor([part]), output_hidden_states=True).hidden_states[-1][0]
            for part in parts
        ]
    wanted = torch.cat(states).mean(0).numpy()
    short, long = model.embed(["fox", text])
    np.testing.assert_allclose(long, wanted, atol=1e-5)
    np.testing.assert_allclose(
        short, open_backend(checkpoint("llama", style)).embed(["fox"])[0], atol=1e-5
    )
    assert model.take_cut_texts() == CutTexts(1, 2, 16, window, "embed_window")
    assert model.take_cut_texts() is None


def test_embeddings_of_odd_texts(backend: Any, checkpoint: Any, open_backend: Any) -> None:
    model = backend()
    assert model.embed([]).shape == (0, 32)
    got = model.embed(["", "fox " * 3000, "a"])
    assert np.isfinite(got).all()
    assert not got[0].any()
    assert got[1].any()
    with_bos = backend("llama", "llama3").embed([""])
    assert with_bos.any(), "a tokenizer that begins every text has something to average"
    plain = model._load().tokenizer("a<|im_end|>b")["input_ids"]
    end = model._load().tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end in plain
    seen: list[Any] = []
    handle = (
        model._load()
        .module.get_input_embeddings()
        .register_forward_hook(
            lambda module, inputs, output: seen.extend(inputs[0].flatten().tolist())
        )
    )
    model.embed(["a<|im_end|>b"])
    handle.remove()
    assert seen
    assert end not in seen


@pytest.mark.types(
    "Lower encode.max_length, or set load_in_4bit", "Set max_length for this model, or device: cpu"
)
def test_out_of_memory(
    checkpoint: Any, backend: Any, open_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_backend(checkpoint())
    encoded = model.encode(samples(), max_length=200, turns="all")
    body = model._load().module.model
    forward, rows = body.forward, []

    def scarce(*args: Any, **kwargs: Any) -> Any:
        rows.append(len(kwargs["input_ids"]))
        if rows[-1] > limit:
            raise torch.OutOfMemoryError("out of memory")
        return forward(*args, **kwargs)

    limit = 2
    monkeypatch.setattr(body, "forward", scarce)
    np.testing.assert_allclose(model.embed(TEXTS), backend().embed(TEXTS), atol=1e-5)
    for got, wanted in zip(model.score(encoded), backend().score(encoded), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert max(rows) > 2
    limit = 0
    with pytest.raises(ModelError, match="memory ran out"):
        model.embed(["a"])
    monkeypatch.setattr(scoring, "_checked_head", lambda loaded: None)
    with pytest.raises(ModelError, match=r"sample 's2' of .* memory ran out"):
        model.score(encoded)
    # What is shorter fits, and so does what is held on another device, which a forward pass that works stands for.
    monkeypatch.setattr(body, "forward", lambda *args, **kwargs: forward(*args, **kwargs) if kwargs["input_ids"].shape[1] <= 12 else scarce(*args, **kwargs))  # fmt: skip
    with pytest.raises(
        ModelError, match=r"Lower encode\.max_length, or set load_in_4bit or device: cpu"
    ):
        model.score(encoded)
    model.score(model.encode(samples(), max_length=12, turns="all"))
    with pytest.raises(ModelError, match="Set max_length for this model, or device: cpu"):
        model.embed(["a " * 40])
    short = open_backend(checkpoint(), max_length=12)
    small = short._load().module.model
    whole = small.forward
    monkeypatch.setattr(small, "forward", lambda *args, **kwargs: whole(*args, **kwargs) if kwargs["input_ids"].shape[1] <= 12 else scarce(*args, **kwargs))  # fmt: skip
    assert len(short.embed(["a " * 40])) == 1


@pytest.mark.parametrize(
    ("given", "device", "tokens"),
    [({}, "cpu", 4096), ({}, "cuda", 16384), ({"batch_tokens": 9999}, "cpu", 9999), ({"batch_tokens": 16384}, "cpu", 16384)],
)  # fmt: skip
def test_a_cpu_scores_smaller_batches_unless_told(
    given: dict[str, int], device: str, tokens: int
) -> None:
    assert scoring_tokens(HFConfig(model="tiny", **given), device) == tokens
