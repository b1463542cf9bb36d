"""``hf.lora`` on random Llama checkpoints: what it learns, what it leaves alone, what it saves."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lent_llama import VOCABULARY, llama, sample
from peft import PeftModel
from pydantic import ValidationError
from short_training import adapter, assert_same_adapter, train
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from nfilter import LendsModule, ModelError, ModelRef, NothingLeftError, TokenSample
from nfilter.testing import FakeContext
from nfilter_hf.fingerprint import file_sha256
from nfilter_hf.lora.adapter import attached
from nfilter_hf.lora.settings import LoraSettings
from nfilter_hf.lora.trainer import LoraTrainer

LINEARS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def soft(index: int) -> TokenSample:
    """A sample with a weight of its own for every token of the response, some of them 0."""
    base = sample(index)
    weights = np.random.default_rng(1000 + index).choice([0, 0.25, 1, 3], len(base.ids))
    weights = weights * base.response
    weights[-1] = 0.5
    return TokenSample(
        id=base.id, ids=base.ids, response=base.response, turn=base.turn, spans=base.spans,
        weights=weights.astype(np.float32),
    )  # fmt: skip


def hand_written_step_loss(module: Any, samples: list[TokenSample]) -> torch.Tensor:
    """Sum of weighted losses over sum of weights, one sample at a time, from plain logits."""
    total, weight = torch.zeros(()), 0.0
    for one in samples:
        logits = module(input_ids=torch.from_numpy(one.ids)[None]).logits[0]
        for j in range(1, len(one.ids)):
            probabilities = torch.softmax(logits[j - 1], -1)
            total = total - float(one.weights[j]) * torch.log(probabilities[int(one.ids[j])])
            weight += float(one.weights[j])
    return total / weight


def test_the_loss_of_a_step_is_the_hand_written_one(tmp_path: Path) -> None:
    samples = [soft(i) for i in range(8)]
    result = train(samples, tmp_path, max_steps=1)
    with torch.no_grad():
        wanted = float(hand_written_step_loss(llama(), samples))
    assert result.losses == pytest.approx((wanted,), abs=1e-6)
    assert result.tokens == sum(int((s.weights[1:] != 0).sum()) for s in samples)


@pytest.mark.parametrize("budget", [1, 40, 97, 10_000])
def test_the_gradient_of_a_step_is_the_hand_written_one_whatever_the_split(
    tmp_path: Path, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [soft(i) for i in range(8)]
    seen: list[torch.Tensor] = []
    real = torch.optim.AdamW.step

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.extend(p.grad.clone() for group in self.param_groups for p in group["params"])
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    train(samples, tmp_path, max_steps=1, micro_batch_tokens=budget, max_grad_norm=None)

    module = llama()
    torch.manual_seed(0)
    with attached(module, rank=4, alpha=16.0, dropout=0.0, targets=None):
        parameters = [p for p in module.parameters() if p.requires_grad]
        wanted = torch.autograd.grad(hand_written_step_loss(module, samples), parameters)
    assert len(seen) == len(wanted) == 2 * 7 * 2
    assert max(float(w.abs().max()) for w in wanted) > 1e-3
    for got, want in zip(seen, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


def test_a_training_is_the_hand_written_one(tmp_path: Path) -> None:
    samples = [soft(i) for i in range(8)]
    result = train(samples, tmp_path, epochs=4, lr=1e-3, warmup=0.25, weight_decay=0.1)
    module = llama()
    torch.manual_seed(0)
    losses = []
    with attached(module, rank=4, alpha=16.0, dropout=0.0, targets=None):
        parameters = [p for p in module.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.1)
        for factor in (1 / 2, 1, 2 / 3, 1 / 3):
            optimizer.param_groups[0]["lr"] = 1e-3 * factor
            loss = hand_written_step_loss(module, samples)
            gradients = torch.autograd.grad(loss, parameters)
            norm = torch.sqrt(sum((g**2).sum() for g in gradients))
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient * min(1.0, 1.0 / float(norm))
            optimizer.step()
            losses.append(loss.item())
    assert float(norm) > 1
    assert result.losses == pytest.approx(losses, abs=1e-5)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("norm", ["tokens", "samples"])
def test_accumulation_changes_nothing(tmp_path: Path, norm: str) -> None:
    samples = [soft(i) for i in range(16)]
    whole = train(samples, tmp_path / "whole", loss_norm=norm, lr=1e-3)
    split = train(samples, tmp_path / "split", loss_norm=norm, lr=1e-3, micro_batch_tokens=30)
    assert split.losses == pytest.approx(whole.losses, abs=1e-6)
    assert whole.steps == 4


def test_a_mean_of_micro_batches_depends_on_the_split(tmp_path: Path) -> None:
    samples = [soft(i) for i in range(8)]
    options = {"loss_norm": "microbatch", "max_steps": 1}
    whole = train(samples, tmp_path / "whole", **options)
    split = train(samples, tmp_path / "split", **options, micro_batch_tokens=30)
    assert abs(whole.losses[0] - split.losses[0]) > 1e-3


def test_training_lowers_the_loss_and_leaves_the_base_as_it_was(tmp_path: Path) -> None:
    module = llama()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    needs = [p.requires_grad for p in module.parameters()]
    result = train([sample(i) for i in range(32)], tmp_path, module, epochs=15)
    assert result.losses[-1] < 0.5 * result.losses[0]
    after = module.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not module.training
    assert [p.requires_grad for p in module.parameters()] == needs
    assert all(p.grad is None for p in module.parameters())
    assert not hasattr(module, "peft_config")


# PEFT asks for gradient checkpointing by a name that newer transformers retire.
@pytest.mark.filterwarnings("ignore:.*checkpointing:FutureWarning")
def test_the_adapter_loads_with_peft_and_is_the_one_that_was_trained(tmp_path: Path) -> None:
    base = tmp_path / "base"
    llama().save_pretrained(base)
    module = LlamaForCausalLM.from_pretrained(base).eval()
    samples = [sample(i) for i in range(16)]
    result = train(samples, tmp_path / "out", module, epochs=6)
    loaded = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(base), tmp_path / "out")
    with torch.no_grad():
        loss = float(hand_written_step_loss(loaded.eval(), samples))
        base_loss = float(hand_written_step_loss(module, samples))
    assert base_loss == pytest.approx(np.mean(result.losses[:1]), rel=0.2)
    assert loss < 0.8 * base_loss
    assert loss <= result.losses[-1] + 0.05
    assert loaded.peft_config["default"].base_model_name_or_path == str(base.resolve())
    assert set(loaded.peft_config["default"].target_modules) == LINEARS
    assert result.ref == ModelRef(
        str(tmp_path / "out"),
        "adapter",
        "fake",
        file_sha256(tmp_path / "out" / "adapter_model.safetensors"),
    )


def test_equal_seeds_give_equal_bytes_and_other_seeds_others(tmp_path: Path) -> None:
    samples = [sample(i) for i in range(16)]
    module = llama()
    torch.manual_seed(123)
    state = torch.random.get_rng_state()
    runs = [
        train(samples, tmp_path / name, module, seed=seed, dropout=0.1)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert torch.equal(torch.random.get_rng_state(), state)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert runs[0].ref.digest == runs[1].ref.digest != runs[2].ref.digest
    assert runs[0].losses == runs[1].losses


def test_samples_without_weight_take_no_part(tmp_path: Path) -> None:
    some = [sample(i) for i in range(8)]
    none = [sample(i, weight=0.0) for i in range(20, 25)]
    train(some, tmp_path / "some")
    train([*none[:2], *some, *none[2:]], tmp_path / "all")
    assert_same_adapter(tmp_path / "some", tmp_path / "all", atol=0)
    record = json.loads((tmp_path / "all" / "training.json").read_text())
    assert (record["samples"], record["samples_without_weight"]) == (8, 5)


def test_nothing_to_train_on_is_an_error_before_a_model_is_asked_for(tmp_path: Path) -> None:
    trainer = LoraTrainer(LoraSettings(model="student"))
    with pytest.raises(
        NothingLeftError, match="none of 3 samples has a token with a weight other than 0"
    ):
        trainer.train([sample(i, weight=0.0) for i in range(3)], None, tmp_path, FakeContext())
    with pytest.raises(NothingLeftError):
        trainer.train([], None, tmp_path, FakeContext())


def test_a_weight_shifts_the_loss_towards_its_sample(tmp_path: Path) -> None:
    samples = [sample(0), sample(1)]
    heavy = [sample(0, weight=3.0), sample(1)]
    with torch.no_grad():
        losses = [float(hand_written_step_loss(llama(), [s])) for s in samples]
    counts = [int(s.response[1:].sum()) for s in samples]
    even = train(samples, tmp_path / "even", max_steps=1).losses[0]
    uneven = train(heavy, tmp_path / "uneven", max_steps=1).losses[0]
    assert even == pytest.approx(np.average(losses, weights=counts), abs=1e-5)
    assert uneven == pytest.approx(np.average(losses, weights=[3 * counts[0], counts[1]]), abs=1e-5)


def test_what_follows_the_last_weighted_token_is_never_read(tmp_path: Path) -> None:
    short = sample(0, length=12)
    tail = np.zeros(30, dtype=np.int64)
    longer = TokenSample(
        id="0",
        ids=np.concatenate([short.ids, tail]),
        response=np.concatenate([short.response, tail != 0]),
        turn=np.zeros(42, dtype=np.int16),
        spans=np.zeros((42, 2), dtype=np.int32),
        weights=np.concatenate([short.weights, tail.astype(np.float32)]),
    )
    train([short], tmp_path / "short")
    train([longer], tmp_path / "longer")
    assert_same_adapter(tmp_path / "short", tmp_path / "longer", atol=0)


def test_training_goes_on_from_an_adapter(tmp_path: Path) -> None:
    samples = [sample(i) for i in range(16)]
    first = train(samples, tmp_path / "first", epochs=6)
    more = train(samples, tmp_path / "more", start=first.ref)
    assert more.losses[0] < 0.8 * first.losses[0]
    assert (
        json.loads((tmp_path / "more" / "training.json").read_text())["start"] == first.ref.digest
    )


@pytest.mark.types("set train.rank and train.alpha", "set train.target_modules to «»")
def test_a_start_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    samples = [sample(i) for i in range(8)]
    first = train(samples, tmp_path / "first").ref
    with pytest.raises(ModelError, match=r"has rank 4 and alpha 16.*rank 8.*set train\.rank"):
        train(samples, tmp_path / "x", start=first, rank=8)
    with pytest.raises(ModelError, match=r"differ from the recipe's: set train\.target_modules"):
        train(samples, tmp_path / "x", start=first, target_modules=["q_proj"])
    other = ModelRef(first.path, "adapter", "another", first.digest)
    with pytest.raises(ModelError, match="a base other than 'student'"):
        train(samples, tmp_path / "x", start=other)
    with pytest.raises(ModelError, match=r"is not a LoRA adapter \(a folder with adapter_model"):
        train(samples, tmp_path / "x", start=ModelRef(str(tmp_path), "full", "fake", ""))
    # Rank, alpha and layers that are the adapter's.
    train(samples, tmp_path / "y", start=first, rank=4, alpha=16, max_steps=1)
    saved = json.loads((Path(first.path) / "adapter_config.json").read_text())["target_modules"]
    train(samples, tmp_path / "z", start=first, target_modules=saved, max_steps=1)


@pytest.mark.types("or write target_modules: all-linear")
def test_target_modules(tmp_path: Path) -> None:
    samples = [sample(0)]
    train(samples, tmp_path / "q", target_modules=["q_proj", "v_proj"], max_steps=1)
    assert {name.split(".")[-3] for name in adapter(tmp_path / "q")} == {"q_proj", "v_proj"}
    train(samples, tmp_path / "all", target_modules="all-linear", max_steps=1)
    assert {name.split(".")[-3] for name in adapter(tmp_path / "all")} == LINEARS
    with pytest.raises(ModelError, match=r"no linear layer named 'qproj'; did you mean 'q_proj'\?"):
        train(samples, tmp_path / "x", target_modules=["qproj"])
    with pytest.raises(ValidationError):
        LoraSettings(model="m", target_modules="q_proj")  # type: ignore[arg-type]


def test_a_model_without_the_usual_names_gets_all_its_linear_layers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=1, n_head=2, n_positions=64)
    result = train(
        [sample(i) for i in range(8)], tmp_path, GPT2LMHeadModel(config).eval(), epochs=8
    )
    assert result.losses[-1] < result.losses[0]
    assert {name.split(".")[-3] for name in adapter(tmp_path)} == {"c_attn", "c_proj", "c_fc"}


def test_gradient_checkpointing_changes_nothing_but_time(tmp_path: Path) -> None:
    samples = [sample(i) for i in range(8)]
    module = llama()
    train(samples, tmp_path / "plain", module)
    train(samples, tmp_path / "kept", module, gradient_checkpointing=True)
    assert_same_adapter(tmp_path / "plain", tmp_path / "kept", atol=1e-5)
    assert not any(getattr(m, "gradient_checkpointing", False) for m in module.modules())


@pytest.mark.types("lower train.micro_batch_tokens")
def test_an_architecture_with_an_unknown_head_is_trained_on_its_own_logits(tmp_path: Path) -> None:
    class Doubled(LlamaForCausalLM):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = super().forward(*args, **kwargs)
            output.logits = output.logits * 2
            return output

    torch.manual_seed(0)
    samples, ctx = [soft(i) for i in range(8)], FakeContext()
    module = Doubled(llama().config).eval()
    with torch.no_grad():
        wanted = float(hand_written_step_loss(module, samples))
    result = train(samples, tmp_path, module, ctx=ctx, epochs=6)
    assert result.losses[0] == pytest.approx(wanted, abs=1e-5)
    assert result.losses[-1] < result.losses[0]
    assert any(
        "Doubled transforms logits after its output matrix" in text for _, text in ctx.log.lines
    )
    smaller = train(samples, tmp_path / "smaller", Doubled(llama().config).eval(), micro_batch_tokens=32, max_steps=1)  # fmt: skip
    assert smaller.steps == 1


def test_what_is_trained_on_a_backend_is_what_the_backend_then_runs(
    tmp_path: Path, backend: Callable[..., Any]
) -> None:
    lender = backend()
    samples = [sample(i) for i in range(16)]

    def scored(ref: ModelRef | None) -> float:
        losses = lender.score(samples, ref)
        return float(np.concatenate([loss[~np.isnan(loss)] for loss in losses]).mean())

    before = scored(None)
    trainer = LoraTrainer(LoraSettings(model="m", rank=4, lr=1e-2, epochs=10, batch_size=8))
    ref = trainer.train(samples, lender, tmp_path, FakeContext()).ref
    assert ref.base == lender.fingerprint()
    assert scored(ref) < 0.8 * before
    assert scored(None) == before


def test_the_record_of_a_training(tmp_path: Path) -> None:
    ctx = FakeContext(seed=7)
    result = train([sample(i) for i in range(12)], tmp_path, ctx=ctx)
    record = json.loads((tmp_path / "training.json").read_text())
    assert record["config"]["rank"] == 4
    assert record["config"]["lr"] == 1e-2
    assert (record["seed"], record["steps"], record["steps_planned"]) == (7, 4, 4)
    assert record["losses"] == list(result.losses)
    assert (
        record["tokens"]
        == result.tokens
        == 2 * sum(int(sample(i).response[1:].sum()) for i in range(12))
    )
    assert record["digest"] == result.ref.digest
    assert record["versions"]["torch"] == version("torch")
    assert record["stopped"] is None
    assert any("4 optimiser steps on 12 samples" in text for _, text in ctx.log.lines)
    assert result.seconds_per_step is not None
    assert 0 < 3 * result.seconds_per_step < result.seconds
    assert not list(tmp_path.glob(".*"))


def test_what_it_needs_is_a_module() -> None:
    (need,) = LoraTrainer.contract(LoraSettings(model="student")).needs
    assert (need.model, need.capability, need.field) == ("student", LendsModule, "model")
    with pytest.raises(ValidationError):
        LoraSettings(model="student", learning_rate=1)  # type: ignore[call-arg]


def test_the_defaults_are_the_papers_or_left_to_rows_and_model() -> None:
    config = LoraSettings(model="m")
    assert (config.rank, config.alpha, config.dropout) == (64, 16, 0.1)
    assert (config.schedule, config.warmup, config.loss_norm) == ("linear", 0.03, "tokens")
    assert (config.lr, config.epochs, config.batch_size) == ("auto", "auto", "auto")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_four_bit_base_trains_and_is_given_back(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    llama().save_pretrained(tmp_path / "base")
    module = LlamaForCausalLM.from_pretrained(
        tmp_path / "base", quantization_config=BitsAndBytesConfig(load_in_4bit=True),
        dtype=torch.bfloat16, device_map={"": 0},
    ).eval()  # fmt: skip
    types = {name: p.dtype for name, p in module.named_parameters()}
    result = train([sample(i) for i in range(32)], tmp_path / "out", module, epochs=10)
    assert result.losses[-1] < result.losses[0]
    assert {name: p.dtype for name, p in module.named_parameters()} == types
