"""A loss with a penalty against the base: its gradient against plain torch with full logits, its effect, its shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lent_llama import Lender, llama
from online_training import SAMPLES, made, train

from nfilter import ModelError
from nfilter.testing import FakeContext
from nfilter_hf.lora.adapter import attached
from nfilter_hf.lora.settings import LoraSettings
from nfilter_hf.lora.trainer import LoraTrainer
from nfilter_losses.asft import Asft, AsftConfig


def anchored(module: Any, base: Any, norm: str) -> torch.Tensor:
    """ASFT of the step by hand: full logits of both models, KL(base || model) over the whole vocabulary."""
    rows = []
    for one in SAMPLES:
        ids = torch.from_numpy(one.ids)[None]
        at = np.flatnonzero(one.weights[1:])
        logs = torch.log_softmax(module(input_ids=ids).logits[0][at].double(), -1)
        with torch.no_grad():
            other = torch.log_softmax(base(input_ids=ids).logits[0][at].double(), -1)
        labels = torch.from_numpy(one.ids[at + 1])
        losses = -logs[torch.arange(len(at)), labels]
        penalty = (other.exp() * (other - logs)).sum(-1)
        given = torch.from_numpy(one.weights[at + 1]).double()
        given = given / len(at) if norm == "samples" else given
        rows.append((losses, penalty, given))
    losses, penalty, given = (torch.cat(parts) for parts in zip(*rows, strict=True))
    assert penalty.max() > 0.01
    each = (-losses.detach()).exp() * losses + 0.5 * penalty
    return (given * each).sum() / given.sum()


@pytest.mark.parametrize("norm", ["tokens", "samples"])
@pytest.mark.parametrize("budget", [1, 40, 10_000])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_gradient_of_a_penalty_is_that_of_full_logits_of_model_and_base(
    tmp_path: Path, gradients: list[Any], budget: int, norm: str, dropout: float
) -> None:
    from safetensors.torch import load_file

    # Training starts from an adapter, so model and base differ.
    first = train(tmp_path / "first", None, max_steps=2, lr=0.05)
    gradients.clear()
    module = llama()
    settings = {"rank": 4, "lr": 1e-2, "batch_size": 8, "max_steps": 1, "max_grad_norm": None}
    config = LoraSettings.model_validate(
        {**settings, "dropout": dropout, "loss_norm": norm, "micro_batch_tokens": budget}
    )
    loss, seen = Asft(AsftConfig(kl=0.5)), []
    real, loss.penalty = loss.penalty, lambda *parts: seen.append(parts) or real(*parts)  # type: ignore[method-assign]
    result = LoraTrainer(config).train(
        SAMPLES, Lender(module), tmp_path / "out", FakeContext(loss=loss), first.ref
    )
    weights = load_file(tmp_path / "first" / "adapter_model.safetensors")
    adapted = llama()
    with attached(adapted, rank=4, alpha=16.0, dropout=0.0, targets=None) as wrapped:
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(wrapped, weights)
        wrapped.eval()
        parameters = [p for p in adapted.parameters() if p.requires_grad]
        loss_by_hand = anchored(adapted, llama(), norm)
        wanted = torch.autograd.grad(loss_by_hand, parameters)
    assert all(not reference.requires_grad for _, _, reference in seen)
    assert sum(len(labels) for _, labels, _ in seen) == sum(
        int((one.weights[1:] != 0).sum()) for one in SAMPLES
    )
    # The module has no adapter any more, and its mode is as before.
    assert not module.training
    if dropout:
        # Dropout is in the model alone: the reference is the base's own prediction.
        flat = torch.cat([reference for _, _, reference in seen])
        known = torch.cat([llama()(input_ids=torch.from_numpy(one.ids)[None]).logits[0][np.flatnonzero(one.weights[1:])] for one in SAMPLES]).detach()  # fmt: skip
        torch.testing.assert_close(flat.sum(0), known.sum(0), rtol=1e-4, atol=1e-3)
        return
    assert result.losses == pytest.approx((loss_by_hand.item(),), abs=1e-5)
    assert len(gradients) == len(wanted)
    for got, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def test_a_penalty_holds_the_model_near_the_base(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    def distance(kl: float) -> float:
        loss = Asft(AsftConfig(kl=kl))
        train(tmp_path / str(kl), loss, epochs=10, max_steps=10)
        tensors = load_file(tmp_path / str(kl) / "adapter_model.safetensors")
        return float(sum(t.pow(2).sum() for name, t in tensors.items() if "lora_B" in name))

    assert distance(20.0) < 0.5 * distance(0.0)


def test_a_penalty_without_weights_still_trains_and_its_shape_is_checked(tmp_path: Path) -> None:
    loss = made(torch.zeros)
    loss.penalty = lambda logits, labels, reference: logits.float().pow(2).mean(-1)
    ctx = FakeContext(loss=loss)
    result = train(tmp_path / "a", None, ctx=ctx, max_steps=2)
    assert result.losses[0] > result.losses[1] > 0
    assert not [text for kind, text in ctx.log.lines if "gave weight 0" in text]
    loss.penalty = lambda logits, labels, reference: logits
    with pytest.raises(ModelError, match=r"'made': its penalty has the shape \[\d+, 50\]"):
        train(tmp_path / "b", loss, max_steps=1)
