"""Generation against transformers' own, and its independence of batch, order and padding."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from transformers import AddedToken

from nfilter import Completion, EndsPrompts, Message, Request, Sampling
from nfilter_hf.decoding.sampling import choose, uniforms
from nfilter_hf.loading import _marks
from nfilter_hf.templates.prompts import prompt_ids, text_of

MODELS = ["llama", "gpt2", "qwen2", "gemma2"]


def ask(text: str, **sampling: Any) -> Request:
    return Request(
        (Message("user", text),), Sampling(**{"max_tokens": 12, **sampling}), logprobs=True
    )


PROMPTS = [
    "what",
    "name a colour : red , green",
    "two plus three ?",
    "the quick brown fox jumps over the lazy dog .",
]


def logprobs(completion: Completion) -> np.ndarray:
    assert completion.logprobs is not None
    return np.asarray(completion.logprobs)


@pytest.mark.parametrize("kind", MODELS)
def test_greedy_equals_transformers(backend: Any, kind: str) -> None:
    model = backend(kind)
    loaded = model._load()
    requests = [ask(text) for text in PROMPTS]
    for request, got in zip(requests, model.generate(requests), strict=True):
        ids = torch.tensor([prompt_ids(loaded, request)])
        out = loaded.module.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False,
            pad_token_id=loaded.pad_id, eos_token_id=sorted(loaded.stop_ids),
            return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
        new = out.sequences[0, ids.shape[1] :].tolist()
        text = loaded.tokenizer.decode(new, skip_special_tokens=True)
        assert got.text == text
        assert got.completion_tokens == len(new)
        assert got.prompt_tokens == ids.shape[1]
        assert got.finish == ("stop" if new[-1] in loaded.stop_ids else "length")
        wanted = [
            torch.log_softmax(step[0].double(), -1)[token].item()
            for step, token in zip(out.logits, new, strict=True)
        ]
        np.testing.assert_allclose(logprobs(got), wanted, atol=1e-4)
        assert got.nll == pytest.approx(-np.mean(wanted), abs=1e-4)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_batch_order_and_padding_do_not_matter(backend: Any, kind: str, temperature: float) -> None:
    model = backend(kind)
    requests = [
        ask(text, temperature=temperature, top_p=0.9, seed=i, max_tokens=4 + 3 * i)
        for i, text in enumerate([*PROMPTS, "a", "b b b b b b b b b b b b", "maybe", "yes no yes"])
    ]
    alone = [model.generate([request])[0] for request in requests]
    order = list(range(len(requests)))
    for seed in range(3):
        random.Random(seed).shuffle(order)
        together = model.generate([requests[i] for i in order])
        for i, got in zip(order, together, strict=True):
            assert got.text == alone[i].text
            assert replace(got, logprobs=None) == replace(alone[i], logprobs=None)
            np.testing.assert_allclose(logprobs(got), logprobs(alone[i]), atol=1e-4)


def test_small_budgets_change_nothing(checkpoint: Any, backend: Any, open_backend: Any) -> None:
    requests = [ask(text, temperature=1.0, seed=i) for i, text in enumerate(PROMPTS * 3)]
    wanted = [c.text for c in backend().generate(requests)]
    small = open_backend(checkpoint(), batch_tokens=90)
    assert [c.text for c in small.generate(requests)] == wanted


def test_seed_and_draw_make_other_samples(backend: Any) -> None:
    base = ask("name a colour", temperature=1.0, seed=3)
    requests = [
        base,
        base,
        replace(base, draw=1),
        replace(base, sampling=replace(base.sampling, seed=-4)),
    ]
    first, again, draw, seed = (c.text for c in backend().generate(requests))
    assert first == again
    assert len({first, draw, seed}) == 3


def test_the_end_token_counts_and_is_not_text(
    checkpoint: Any, backend: Any, open_backend: Any
) -> None:
    request = ask("two plus three ?", max_tokens=20)
    loaded = backend()._load()
    prompt = torch.tensor([prompt_ids(loaded, request)])
    ids = loaded.module.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=20,
        do_sample=False,
        pad_token_id=2,
    )[0, prompt.shape[1] :].tolist()
    step = next(i for i in range(3, 20) if ids[i] not in ids[:i])
    model = open_backend(checkpoint())
    # The token that the model writes there anyway is made the end token.
    model._loaded = replace(model._load(), stop_ids=frozenset({ids[step]}))
    whole, got = backend().generate([request])[0], model.generate([request])[0]
    assert got.finish == "stop"
    assert got.text == loaded.tokenizer.decode(ids[:step])
    assert got.completion_tokens == step + 1
    np.testing.assert_allclose(logprobs(got), logprobs(whole)[: step + 1], atol=1e-6)


def test_every_end_token_of_the_checkpoint_ends_an_answer(backend: Any) -> None:
    loaded = backend("llama", "llama3")._load()
    named = loaded.tokenizer.convert_tokens_to_ids(["<|eot_id|>", "</s>"])
    assert set(named) <= loaded.stop_ids


def test_stop_strings_cut_the_text(backend: Any) -> None:
    model = backend()
    whole = model.generate([ask("what", max_tokens=40)])[0]
    assert len(whole.text) > 12
    stop = whole.text[6:9]
    got = model.generate([ask("what", max_tokens=40, stop=("\x00", stop))])[0]
    assert got.finish == "stop"
    assert got.text == whole.text[: whole.text.index(stop)]
    assert got.completion_tokens < whole.completion_tokens
    np.testing.assert_allclose(logprobs(got), logprobs(whole)[: got.completion_tokens], atol=1e-5)


def test_logprobs_only_where_asked(backend: Any) -> None:
    with_them, without = backend().generate([ask("a"), replace(ask("a"), logprobs=False)])
    assert with_them.logprobs
    assert without.logprobs is None
    assert without.text == with_them.text


def test_temperature_does_not_change_logprobs(backend: Any) -> None:
    # Eq. 7 asks for the model's own distribution: at a near-zero temperature the draw is the greedy one.
    cold, greedy = backend().generate([ask("what", temperature=1e-4), ask("what")])
    assert cold.text == greedy.text
    np.testing.assert_allclose(logprobs(cold), logprobs(greedy), atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_context_bounds_prompt_and_answer(backend: Any, kind: str) -> None:
    model = backend(kind, context=64)
    loaded = model._load()
    assert loaded.context == 64
    long, edge, short = ask("fox " * 200), ask("a", max_tokens=1000), ask("a")
    got = model.generate([long, edge, short])
    assert got[0].failure is not None
    assert got[0].failure.kind == "too_long"
    assert (got[0].finish, got[0].text) == ("failed", "")
    assert got[1].prompt_tokens + got[1].completion_tokens <= 64
    assert got[2].failure is None
    longest = next(n for n in range(100) if len(prompt_ids(loaded, ask("." * n))) == 64)
    full, fits = model.generate([ask("." * longest), ask("." * (longest - 1))])
    assert full.failure is not None
    assert (fits.failure, fits.completion_tokens) == (None, 1)


def test_max_length_shortens_the_context(checkpoint: Any, open_backend: Any) -> None:
    model = open_backend(checkpoint(), max_length=20)
    assert model.generate([ask("fox " * 30)])[0].failure.kind == "too_long"


def test_nothing_asked_nothing_answered(backend: Any) -> None:
    assert backend().generate([]) == []
    nothing = backend().generate([ask("a", max_tokens=0)])[0]
    assert (nothing.text, nothing.finish, nothing.logprobs) == ("", "length", ())
    empty = backend().generate([Request(())])[0]
    assert empty.failure is not None


class Scarce:
    """A module's forward that runs out of memory on more than ``most`` rows."""

    def __init__(self, module: Any, most: int, error: Exception) -> None:
        self.forward, self.most, self.error, self.rows = module.forward, most, error, []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.rows.append(len(kwargs["input_ids"]))
        if len(kwargs["input_ids"]) > self.most:
            raise self.error
        return self.forward(*args, **kwargs)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: not enough memory: you tried"
        ),
    ],
    ids=["cuda", "mps", "cpu"],
)
def test_out_of_memory_halves_the_batch(
    checkpoint: Any,
    backend: Any,
    open_backend: Any,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    requests = [
        ask(text, temperature=1.0, seed=i, max_tokens=5) for i, text in enumerate(PROMPTS * 3)
    ]
    wanted = [c.text for c in backend().generate(requests)]
    model = open_backend(checkpoint())
    module = model._load().module
    scarce = Scarce(module, 2, error)
    monkeypatch.setattr(module, "forward", scarce)
    assert [c.text for c in model.generate(requests)] == wanted
    assert scarce.rows[:3] == [12, 6, 3]
    assert max(scarce.rows[3:]) <= 2 or sorted({r for r in scarce.rows[3:] if r > 2}) == [3]
    scarce.rows.clear()
    model.generate(requests)
    assert max(scarce.rows) <= 3, "the smaller batch is remembered"


@pytest.mark.types("lower max_tokens or max_length")
def test_out_of_memory_alone_is_a_failure(
    checkpoint: Any, open_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_backend(checkpoint())
    module = model._load().module
    forward = module.forward

    def refuse_long(*args: Any, **kwargs: Any) -> Any:
        if kwargs["input_ids"].shape[1] > 40:
            raise torch.OutOfMemoryError("out of memory")
        return forward(*args, **kwargs)

    monkeypatch.setattr(module, "forward", refuse_long)
    got = model.generate([ask("a"), ask("fox " * 40), ask("b")])
    assert [c.failure.kind if c.failure else None for c in got] == [None, "memory", None]
    assert got[1].failure is not None
    assert "lower max_tokens or max_length" in got[1].failure.detail
    (shorter,) = model.generate([ask("fox " * 20, max_tokens=2)])
    assert shorter.failure is None
    monkeypatch.setattr(module, "forward", forward)
    small = open_backend(checkpoint(), max_length=40)
    monkeypatch.setattr(small._load().module, "forward", refuse_long)
    (cut,) = small.generate([ask("fox " * 12)])
    assert cut.failure is None or cut.failure.kind == "too_long"


def test_other_errors_are_not_swallowed(
    checkpoint: Any, open_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_backend(checkpoint())
    monkeypatch.setattr(
        model._load().module,
        "forward",
        Scarce(model._load().module, 0, RuntimeError("shape mismatch")),
    )
    with pytest.raises(RuntimeError, match="shape mismatch"):
        model.generate([ask("a")])


def test_finished_rows_leave_the_batch(
    checkpoint: Any, open_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_backend(checkpoint())
    # Without an end token, each row is as long as it may be.
    model._loaded = replace(model._load(), stop_ids=frozenset())
    module = model._load().module
    scarce = Scarce(module, 99, RuntimeError())
    monkeypatch.setattr(module, "forward", scarce)
    lengths = [1, 1, 3, 3, 3, 6]
    model.generate([ask(f"{n} {i}", max_tokens=n) for i, n in enumerate(lengths)])
    assert scarce.rows == [sum(n > step for n in lengths) for step in range(6)]


def test_the_head_reads_one_block_and_not_slices_with_gaps(
    checkpoint: Any, open_backend: Any
) -> None:
    """Of a batch of slices torch copies the head's weights once for each row, where they are frozen."""
    model = open_backend(checkpoint())
    with model.lend() as lent:
        head = lent.module.get_output_embeddings()
        head.weight.requires_grad_(False)
        seen: list[bool] = []
        head.register_forward_hook(lambda _, args, out: seen.append(args[0].is_contiguous()))
        model.generate([ask(text, max_tokens=3) for text in ("one", "two and more", "3")])
        assert seen
        assert all(seen)
        assert not head._forward_pre_hooks


def test_output_that_is_not_finite_is_a_failure(
    checkpoint: Any, open_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_backend(checkpoint())
    module = model._load().module
    forward = module.forward

    def poisoned(*args: Any, **kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        if kwargs["use_cache"] and kwargs["input_ids"].shape[1] > 1:
            out.logits[0] = float("nan")
        return out

    monkeypatch.setattr(module, "forward", poisoned)
    for first in (ask("fox fox fox"), ask("fox fox fox", temperature=1.0, top_p=0.5)):
        got = model.generate([first, ask("a")])
        assert [c.failure.kind if c.failure else None for c in got] == ["server", None]


def test_nucleus_sampling_follows_its_definition() -> None:
    chances = torch.tensor([0.05, 0.4, 0.3, 0.05, 0.2])
    logits = chances.log().repeat(4000, 1)
    source = uniforms(Sampling(seed=1), 0)
    numbers = [next(source) for _ in range(4000)]
    for top_p, inside in [
        (1.0, [0, 1, 2, 3, 4]),
        (0.8, [1, 2, 4]),
        (0.5, [1, 2]),
        (0.4, [1]),
        (1e-9, [1]),
    ]:
        drawn = choose(logits, [Sampling(temperature=1.0, top_p=top_p)] * 4000, numbers)
        counts = torch.bincount(drawn, minlength=5) / 4000
        wanted = torch.zeros(5)
        wanted[inside] = chances[inside] / chances[inside].sum()
        torch.testing.assert_close(counts, wanted, atol=0.03, rtol=0)
        assert set(drawn.tolist()) == set(inside)


def test_temperature_sharpens() -> None:
    logits = torch.tensor([0.0, 1.0]).repeat(4000, 1)
    source = uniforms(Sampling(seed=2), 0)
    numbers = [next(source) for _ in range(4000)]
    for temperature in (0.5, 2.0):
        drawn = choose(logits, [Sampling(temperature=temperature)] * 4000, numbers)
        wanted = 1 / (1 + np.exp(-1 / temperature))
        assert float(drawn.double().mean()) == pytest.approx(wanted, abs=0.03)


def test_a_draw_never_lands_on_what_has_no_mass() -> None:
    logits = torch.tensor([[0.0, 0.0, -float("inf"), -float("inf")]])
    for number in (0.0, 0.5, 1 - 2**-53):
        assert choose(logits, [Sampling(temperature=1.0)], [number]).item() in (0, 1)


def test_the_end_of_a_prompt_shows_whether_the_template_begins_a_thought(backend: Any) -> None:
    request = ask("what")
    assert backend("llama", "thinking").prompt_end(request).endswith("assistant\n<think>\n")
    assert backend("llama").prompt_end(request).endswith("assistant\n")
    assert isinstance(backend("llama"), EndsPrompts)
    assert backend("llama").prompt_end(Request(())) == ""


def test_marks_of_thoughts_that_are_special_tokens_are_said(backend: Any) -> None:
    loaded = backend("llama")._load()
    words = loaded.tokenizer("what is two", add_special_tokens=False)["input_ids"]
    special = loaded.tokenizer.eos_token_id
    assert text_of(loaded, [*words, special]) == "what is two"
    marked = replace(loaded, marks={special: "[/THINK]"})
    assert text_of(marked, [*words, special, *words]) == "what is two[/THINK]what is two"


def test_marks_are_looked_for_in_the_tokenizer() -> None:
    class Tokenizer:
        added_tokens_decoder: ClassVar[dict[int, Any]] = {
            3: AddedToken("[THINK]", special=True),
            4: AddedToken("<think>", special=False),
            5: AddedToken("[INST]", special=True),
        }

    assert _marks(Tokenizer()) == {3: "[THINK]"}
