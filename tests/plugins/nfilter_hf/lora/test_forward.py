"""The lighter pass of LoRA layers and the head's own gradient, against PEFT's and autograd's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import Gemma2Config, Gemma2ForCausalLM, GraniteConfig, GraniteForCausalLM

from nfilter_hf.lora.adapter import attached
from nfilter_hf.lora.forward import keep_mask, kept_values, lighten
from nfilter_hf.lora.loss import backward_weighted
from nfilter_hf.loss import frozen_matrix, output_head


class Block(nn.Module):
    """Two linear layers that share an input, one with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(6, 10)
        self.gate = nn.Linear(6, 10, bias=False)
        self.down = nn.Linear(10, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(torch.tanh(self.up(x)) * self.gate(x))
        return y


def block(dropout: float = 0.0, **more: Any) -> Any:
    torch.manual_seed(0)
    config = LoraConfig(
        r=3, lora_alpha=12, lora_dropout=dropout, target_modules=["up", "gate", "down"], **more
    )
    wrapped = get_peft_model(Block(), config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    return wrapped.train()


def layers(wrapped: Any) -> list[Any]:
    return [wrapped.base_model.model.up, wrapped.base_model.model.gate]


def found(wrapped: Any, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Output, and the gradients of the input and of every trainable tensor."""
    x = x.clone().requires_grad_()
    trained = [p for p in wrapped.parameters() if p.requires_grad]
    y = wrapped(x)
    return y.detach(), list(torch.autograd.grad((y**3).sum(), [x, *trained]))


@pytest.mark.parametrize("shape", [(5, 6), (2, 7, 6)])
def test_output_and_gradients_are_pefts(shape: tuple[int, ...]) -> None:
    # In float64: the cube makes gradients so large that float32 leaves few digits of some, which ones by processor.
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).double()
    wanted = found(block().double(), x)
    wrapped = block().double()
    lighten(wrapped)
    got = found(wrapped, x)
    assert min(float(g.abs().max()) for g in wanted[1]) > 1e-2
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


def test_the_gradient_is_the_derivative_with_dropout_too() -> None:
    wrapped = block(dropout=0.4).double()
    lighten(wrapped)
    trained = {n: p for n, p in wrapped.named_parameters() if p.requires_grad}

    def run(x: Tensor, *values: Tensor) -> Tensor:
        torch.manual_seed(7)  # the same masks at every call
        y: Tensor = torch.func.functional_call(
            wrapped, dict(zip(trained, values, strict=True)), (x,)
        )
        return y

    x = torch.randn(3, 6, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    values = [p.detach().clone().requires_grad_() for p in trained.values()]
    assert torch.autograd.gradcheck(run, (x.requires_grad_(), *values))


def test_dropout_is_on_the_adapters_input_alone_and_off_in_eval_mode() -> None:
    wrapped = block(dropout=0.5)
    lighten(wrapped)
    layer, x = layers(wrapped)[0], torch.randn(4000, 6)
    plain = layer.base_layer(x)
    low = layer.lora_A["default"].weight
    whole = (x @ low.T) @ layer.lora_B["default"].weight.T * 4
    torch.manual_seed(3)
    kept, factor = keep_mask((4000, 6), 0.5, x.device)
    torch.manual_seed(3)
    seen = layer(x) - plain
    wanted = (x * kept * factor @ low.T) @ layer.lora_B["default"].weight.T * 4
    torch.testing.assert_close(seen, wanted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(seen, whole, atol=1e-1)
    wrapped.eval()
    torch.testing.assert_close(layer(x) - plain, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.9])
def test_a_mask_keeps_its_share_and_its_mean(share: float) -> None:
    torch.manual_seed(0)
    kept, factor = keep_mask((999, 501), share, torch.device("cpu"))
    count = kept.numel()
    error = 5 * (share * (1 - share) / count) ** 0.5
    assert kept.shape == (999, 501)
    assert abs(1 - float(kept.double().mean()) - share) < error
    assert factor * (1 - share) == pytest.approx(1, abs=2e-4)
    # Neighbours come out of the same bits: they are drawn apart all the same.
    pairs = (~kept.flatten()[:-1] & ~kept.flatten()[1:]).double().mean()
    assert abs(float(pairs) - share**2) < 2 * error


@pytest.mark.parametrize("why", ["dora", "float16", "autocast", "merged", "disabled"])
def test_what_is_not_the_same_computation_goes_pefts_way(why: str) -> None:
    def made() -> Any:
        wrapped = block(use_dora=why == "dora")
        if why == "float16":
            for layer in layers(wrapped):
                layer.base_layer.to(torch.float16)
        return wrapped

    def run(wrapped: Any) -> Tensor:
        layer = layers(wrapped)[0]
        x = torch.linspace(-1, 1, 12).view(2, 6)
        if why == "float16":
            x = x.to(torch.float16)
        if why == "merged":
            layer.merge()
        if why == "disabled":
            layer.enable_adapters(False)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=why == "autocast"):
            y: Tensor = layer(x)
        return y

    one, other = made(), made()
    lighten(other)
    wanted, got = run(one), run(other)
    assert got.dtype == wanted.dtype
    assert torch.equal(got, wanted)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_an_adapter_in_float32_on_a_base_in_bfloat16_is_pefts_within_rounding(
    dropout: float,
) -> None:
    def run(light: bool) -> tuple[Tensor, list[Tensor]]:
        wrapped = block(dropout=dropout)
        layer = layers(wrapped)[0]
        layer.base_layer.to(torch.bfloat16)
        if light:
            lighten(wrapped)
        x = torch.randn(64, 6, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
        x.requires_grad_()
        y = layer(x)
        trained = [layer.lora_A["default"].weight, layer.lora_B["default"].weight]
        weights = torch.linspace(-1, 1, y.numel()).view(y.shape)
        return y.detach(), list(torch.autograd.grad((y * weights).sum(), [x, *trained]))

    got, wanted = run(True), run(False)
    assert got[0].dtype == got[1][0].dtype == torch.bfloat16
    assert {g.dtype for g in got[1][1:]} == {torch.float32}
    if dropout:
        return
    for ours, theirs in zip((got[0], *got[1]), (wanted[0], *wanted[1]), strict=True):
        gap = (ours.float() - theirs.float()).norm()
        assert float(gap) < 0.02 * float(theirs.float().norm())


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_a_mask_of_bits_keeps_what_one_of_booleans_keeps(share: float) -> None:
    torch.manual_seed(0)
    kept, factor = keep_mask((33, 7), share, torch.device("cpu"))
    torch.manual_seed(0)
    bits, same = keep_mask((33, 7), share, torch.device("cpu"), bits=True)
    x = torch.randn(33, 7).to(torch.bfloat16)
    assert (bits.dtype, same) == (torch.int16, factor)
    assert torch.equal(kept_values(x, bits), kept_values(x, kept))
    assert torch.equal(kept_values(x, kept) != 0, kept)


def test_an_attached_adapter_has_it_and_leaves_nothing() -> None:
    base = nn.ModuleDict({"q_proj": nn.Linear(4, 4)})
    base.config = type("C", (), {"to_dict": lambda self: {}})()  # type: ignore[assignment]
    base.prepare_inputs_for_generation = None  # type: ignore[assignment]
    before = dict(vars(base["q_proj"]))
    with attached(base, rank=2, alpha=2.0, dropout=0.0, targets=None):
        assert "forward" in vars(base["q_proj"])
    assert vars(base["q_proj"]) == before


Head = Callable[[Tensor], Tensor]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_the_heads_own_gradient_is_autograds(chunk: int, bias: bool, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = nn.Linear(6, 11, bias=bias).requires_grad_(False)
    matrix.weight.copy_(torch.randn(11, 6, generator=generator) * 3)
    matrix.to(dtype)
    start = torch.randn(7, 6, generator=generator)
    labels = torch.randint(0, 11, (7,), generator=generator)
    factors = torch.randn(7, generator=generator)

    def run(direct: bool) -> tuple[Tensor, Tensor]:
        scale = torch.ones(6, requires_grad=True)
        hidden = (start * scale).to(dtype)
        total = backward_weighted(
            matrix, hidden, labels, factors, chunk, matrix.weight if direct else None
        )
        assert scale.grad is not None
        return total, scale.grad

    near = 1e-5 if dtype == torch.float32 else 5e-2
    torch.testing.assert_close(run(True), run(False), rtol=near, atol=near)


def test_the_heads_own_gradient_holds_at_logits_of_any_size() -> None:
    matrix = torch.tensor([[1000.0, 0], [0, 1], [-1000, 0]])
    hidden = torch.tensor([[1.0, 0], [-1, 2], [0, 0]], requires_grad=True)
    labels, factors = torch.tensor([2, 2, 1]), torch.tensor([1.0, 1, 3])
    total = backward_weighted(lambda h: h @ matrix.T, hidden, labels, factors, 2, matrix)
    wanted = hidden.detach().double().requires_grad_()
    loss = -(torch.log_softmax(wanted @ matrix.double().T, -1)[torch.arange(3), labels] * factors)
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert wanted.grad is not None
    torch.testing.assert_close(total.double(), loss.sum().detach())
    assert hidden.grad is not None
    torch.testing.assert_close(hidden.grad.double(), wanted.grad, rtol=1e-6, atol=1e-4)


SIZES = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2,
}  # fmt: skip


def granite(scaling: float) -> Any:
    return GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=scaling)).requires_grad_(False)


def test_a_head_that_is_more_or_is_trained_is_left_to_autograd() -> None:
    plain = granite(1.0)
    assert frozen_matrix(plain) is plain.get_output_embeddings().weight
    hidden = torch.randn(2, 16)
    torch.testing.assert_close(
        output_head(plain)(hidden), hidden @ plain.get_output_embeddings().weight.T
    )
    assert frozen_matrix(granite(4.0)) is None
    capped = Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=5.0)
    assert frozen_matrix(Gemma2ForCausalLM(capped).requires_grad_(False)) is None
    plain.get_output_embeddings().weight.requires_grad_(True)
    assert frozen_matrix(plain) is None
    hooked = granite(1.0)
    hooked.get_output_embeddings().register_forward_hook(lambda *_: None)
    assert frozen_matrix(hooked) is None
