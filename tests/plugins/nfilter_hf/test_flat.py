"""Forward passes of training without padding, against the padded ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lent_llama import VOCABULARY, Lender, llama
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from nfilter import TokenSample
from nfilter.testing import FakeContext
from nfilter_hf.flat import can_flatten, flat_attention, flatten, shared_beginning
from nfilter_hf.lora.adapter import attached
from nfilter_hf.lora.data import MicroBatch, TrainRow, micro_batches
from nfilter_hf.lora.settings import LoraSettings
from nfilter_hf.lora.step import StepLoss
from nfilter_hf.lora.trainer import LoraTrainer

LENGTHS = (7, 12, 9, 12)


def other(kind: str) -> Any:
    """A random model of another architecture than Llama's."""
    torch.manual_seed(0)
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4))
    sizes = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.2,
    }  # fmt: skip
    if kind == "gemma2":
        return Gemma2ForCausalLM(Gemma2Config(**sizes, head_dim=8))
    return Qwen2ForCausalLM(Qwen2Config(**sizes))


def rows(prefix: int, *, seed: int = 0, lengths: tuple[int, ...] = LENGTHS) -> list[TrainRow]:
    """Rows that begin with the same tokens; each predicts once in its beginning, once in the middle, once at its end."""
    rng = np.random.default_rng(seed)
    out = []
    for place, length in enumerate(lengths):
        own = rng.integers(0, VOCABULARY, length)
        own[0] = place  # no more is shared than is said
        inputs = np.concatenate([np.arange(prefix) + 3, own])
        positions = np.unique([min(2, len(inputs) - 1), prefix + length // 2, len(inputs) - 1])
        out.append(
            TrainRow(
                inputs=inputs,
                positions=positions,
                labels=rng.integers(0, VOCABULARY, len(positions)),
                weights=rng.choice([0.5, 1, 2], len(positions)).astype(np.float32),
            )
        )
    return out


def one_pass(given: list[TrainRow]) -> MicroBatch:
    (batch,) = micro_batches(given, 10_000, "tokens")
    return batch


def states(module: Any, batch: MicroBatch, *, flat: bool) -> Tensor:
    """The last hidden states at the predictions."""
    body = module.base_model
    if not flat:
        padded = body(input_ids=torch.from_numpy(batch.inputs), use_cache=False).last_hidden_state
        return padded.flatten(0, 1)[torch.from_numpy(batch.positions)]
    made = flatten(batch)
    with flat_attention(module):
        out = body(
            input_ids=made.inputs,
            position_ids=made.position_ids,
            nfilter_layout=made.layout,
            use_cache=False,
        )
    return out.last_hidden_state[0][made.positions]


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("lengths", [LENGTHS, (6, 6), (9,), (1, 4)])
def test_states_and_gradients_are_those_of_padded_rows(
    kind: str, prefix: int, lengths: tuple[int, ...]
) -> None:
    module = (llama() if kind == "llama" else other(kind)).eval()
    batch = one_pass(rows(prefix, lengths=lengths))

    def run(flat: bool) -> tuple[Tensor, list[Tensor]]:
        module.zero_grad()
        found = states(module, batch, flat=flat)
        (found**3).sum().backward()  # type: ignore[no-untyped-call]
        return found.detach(), [p.grad.clone() for p in module.base_model.parameters()]

    wanted, got = run(False), run(True)
    torch.testing.assert_close(got[0], wanted[0], rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(got[1], wanted[1], strict=True):
        assert float((ours - theirs).norm()) <= 1e-4 * float(theirs.norm())


def test_what_is_shared_stands_once_and_nothing_is_padded() -> None:
    batch = one_pass(rows(5))
    made = flatten(batch)
    assert made.layout.prefix == 5
    assert made.inputs.shape == made.position_ids.shape == (1, 5 + sum(LENGTHS))
    assert batch.inputs.size == 4 * (5 + max(LENGTHS))
    # The same token predicts, at the same place in its row.
    padded = torch.from_numpy(batch.inputs).flatten()[torch.from_numpy(batch.positions)]
    assert torch.equal(made.inputs[0][made.positions], padded)
    place = torch.from_numpy(batch.positions % batch.inputs.shape[1])
    assert torch.equal(made.position_ids[0][made.positions], place)


def test_a_rows_last_token_is_never_shared() -> None:
    same = np.arange(6)
    assert shared_beginning([same, same]) == 5
    assert shared_beginning([same, same[:3]]) == 2
    assert shared_beginning([same, same[:1]]) == 0
    assert shared_beginning([same]) == 0
    assert shared_beginning([same, same + 1]) == 0


def test_a_row_sees_no_other_row() -> None:
    module = llama()
    given = rows(4, lengths=(8, 8, 8))
    before = states(module, one_pass(given), flat=True)
    given[0].inputs[6:] = (given[0].inputs[6:] + 1) % VOCABULARY
    after = states(module, one_pass(given), flat=True)
    count = len(given[0].positions)
    assert not torch.allclose(before[:count], after[:count], atol=1e-2)
    torch.testing.assert_close(after[count:], before[count:])


def step(
    module: Any, given: list[TrainRow], *, flat: bool = True, **config: Any
) -> tuple[StepLoss, float, Tensor, FakeContext]:
    """A step's loss and its whole gradient, with an adapter whose B is not 0, without dropout."""
    settings = LoraSettings(rank=4, dropout=0.0, **config)
    ctx = FakeContext()
    torch.manual_seed(3)
    with attached(module, rank=4, alpha=8.0, dropout=0.0, targets=None) as wrapped:
        parameters = [p for p in wrapped.parameters() if p.requires_grad]
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        made = StepLoss(module, settings, torch.device("cpu"), ctx)
        made.check_head(given[0])
        if flat:
            made.check_flat(given)
        wrapped.train()
        loss = made(given, 0)
        assert {p.dtype for p in parameters} == {torch.float32}
        gradient = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        return made, loss, gradient, ctx


def gap(one: Tensor, other: Tensor) -> float:
    """How far two gradients are apart, as a share of the second."""
    return float((one - other).norm() / other.norm())


def test_bfloat16_gives_float32s_loss_and_gradient_within_its_rounding() -> None:
    given = rows(5)
    plain, wanted, exact, _ = step(llama(), given)
    flat, loss, rounded, ctx = step(llama().to(torch.bfloat16), given)
    assert flat._flat
    assert not plain._flat
    assert not ctx.log.lines
    assert loss == pytest.approx(wanted, rel=1e-2)
    # Padded passes in bfloat16 are off by rounding too, and by about as much.
    _, _, padded, _ = step(llama().to(torch.bfloat16), given, flat=False)
    assert gap(rounded, exact) < min(0.05, 1.5 * gap(padded, exact))


@pytest.mark.parametrize("budget", [20, 64])
def test_the_split_into_passes_changes_rounding_alone(budget: int) -> None:
    given = rows(5)
    _, whole, one, _ = step(llama().to(torch.bfloat16), given)
    _, parts, other, _ = step(llama().to(torch.bfloat16), given, micro_batch_tokens=budget)
    assert parts == pytest.approx(whole, rel=1e-2)
    assert gap(other, one) < 0.05


def test_what_more_connects_tokens_stays_padded() -> None:
    assert can_flatten(llama().to(torch.bfloat16))
    assert not can_flatten(llama())
    for kind in ("gemma2", "gpt2"):
        assert not can_flatten(other(kind).to(torch.bfloat16))
    windowed = llama().to(torch.bfloat16)
    windowed.config.sliding_window = 4
    assert not can_flatten(windowed)
    given = rows(5)
    kept, *_ = step(llama().to(torch.bfloat16), given, gradient_checkpointing=True)
    assert not kept._flat
    auto, *_ = step(llama().to(torch.bfloat16), given, bf16=True)
    assert not auto._flat


def test_a_model_that_is_not_what_it_seems_stays_padded_with_a_warning() -> None:
    odd = llama().to(torch.bfloat16)
    body = odd.model.layers[0].self_attn
    usual = body.forward

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        # What stands before a token in the pass, not in its row, reaches it.
        return usual(hidden_states.cumsum(1), *args, **kwargs)

    body.forward = forward
    made, *_, ctx = step(odd, rows(5))
    assert not made._flat
    assert any("forward passes are padded" in text for _, text in ctx.log.lines)


def test_the_model_is_given_back_with_its_own_attention() -> None:
    module = llama()
    before = module.config._attn_implementation
    with flat_attention(module):
        assert module.config._attn_implementation != before
        with pytest.raises(TypeError, match="nfilter_layout"):
            module(torch.zeros(1, 3, dtype=torch.long))
    assert module.config._attn_implementation == before


def test_a_training_says_its_number_format_and_why(tmp_path: Path) -> None:
    class Told(Lender):
        @contextmanager
        def lend(self) -> Iterator[SimpleNamespace]:
            yield SimpleNamespace(
                module=self.module, tokenizer=None, format_reason="bfloat16: because"
            )

    ids = np.arange(8)
    sample = TokenSample(
        id="a", ids=ids, response=np.ones(8, bool), turn=np.zeros(8, np.int16), spans=np.zeros((8, 2), np.int32),
        weights=np.ones(8, np.float32),
    )  # fmt: skip
    ctx = FakeContext()
    model = Told(llama().to(torch.bfloat16))
    LoraTrainer(LoraSettings(rank=2, epochs=1)).train([sample], model, tmp_path, ctx)
    written = json.loads((tmp_path / "training.json").read_text())
    assert (written["dtype"], written["dtype_reason"]) == ("bfloat16", "bfloat16: because")
