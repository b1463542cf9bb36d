"""A cheaper forward and backward pass for the linear layers of an adapter, equal to PEFT's.

PEFT's layer scales and adds the adapter's output in separate passes over tensors as large as the layer's output, sums
the gradient of its input from two parts, and keeps the dropped input beside the mask. Here the adapter's product is
added in place to the base's, the scale is applied on the side of the rank, and only the mask of dropout is kept, one
byte per value. Files and unloading are PEFT's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_DRAWS = 2**16
"""The dropout rate is rounded to a multiple of 1 / 2**16: each 64 random bits give four values of a mask."""


def lighten(wrapped: Any) -> None:
    """Replace the forward pass of the plain LoRA layers of a PEFT model by the cheaper, equal one.

    PEFT's own pass runs, decided per call, under autocast, for weights of mixed types, and for a base that is not a
    linear layer of floats.
    """
    from peft.tuners.lora import Linear
    from torch import nn

    run = _function().apply
    for layer in wrapped.modules():
        if type(layer) is Linear and type(layer.base_layer) is nn.Linear:
            layer.forward = _forward_of(layer, layer.forward, run)


def _forward_of(layer: Any, usual: Any, run: Any) -> Any:
    import torch

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        names = layer.active_adapters
        base = layer.base_layer
        if (
            args
            or kwargs
            or layer.merged
            or layer.disable_adapters
            or len(names) != 1
            or names[0] in layer.lora_variant
            or x.device.type not in ("cpu", "cuda")
            or torch.is_autocast_enabled(x.device.type)
            or not _fits(x, base.weight, layer.lora_A[names[0]].weight)
        ):
            return usual(x, *args, **kwargs)  # type: ignore[no-any-return]
        (name,) = names
        share = getattr(layer.lora_dropout[name], "p", 0.0) if layer.training else 0.0
        y: Tensor = run(
            x, base.weight, base.bias, layer.lora_A[name].weight, layer.lora_B[name].weight,
            layer.scaling[name], share,
        )  # fmt: skip
        return y

    return forward


def _fits(x: Tensor, weight: Tensor, a: Tensor) -> bool:
    import torch

    if x.dtype != weight.dtype:
        return False
    # An adapter in float32 on a base in bfloat16 is multiplied in bfloat16 and stored in float32.
    mixed = (x.device.type, x.dtype, a.dtype) == ("cpu", torch.bfloat16, torch.float32)
    return mixed or x.dtype == a.dtype


def _narrow(x: Tensor) -> bool:
    import torch

    return x.device.type == "cpu" and x.dtype == torch.bfloat16


def keep_mask(
    shape: tuple[int, int], share: float, device: Any, *, bits: bool = False
) -> tuple[Tensor, float]:
    """Return a mask [rows, columns] that drops about ``share`` of its values, and the factor for the kept values.

    It is drawn from torch's global generator. The share is rounded to a multiple of 1 / 65,536, and the factor is that
    of the rounded share. With ``bits`` the mask is int16 with all bits set at kept values, which is faster than
    booleans for 16-bit values on a CPU.
    """
    import torch

    dropped = min(round(share * _DRAWS), _DRAWS - 1)
    count = shape[0] * shape[1]
    drawn = torch.empty((count + 3) // 4, dtype=torch.int64, device=device)
    drawn.random_(-(2**63), None)
    values, least = drawn.view(torch.int16)[:count].view(shape), dropped - _DRAWS // 2
    mask = values.ge_(least).neg_() if bits else values >= least
    return mask, _DRAWS / (_DRAWS - dropped)


def kept_values(x: Tensor, mask: Tensor) -> Tensor:
    """Return ``x`` with 0 where ``mask`` (from ``keep_mask``) drops it; both have the same shape."""
    import torch

    if mask.dtype == torch.int16:
        return (x.view(torch.int16) & mask).view(x.dtype)
    return x * mask


def _function() -> Any:
    from torch.autograd import Function

    class LoraLinear(Function):
        """y = x W' + b + s (m x) A' B' with the dropout mask m: x [..., d], W [o, d], A [r, d], B [o, r]."""

        @staticmethod
        def forward(
            ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float, share: float,
        ) -> Tensor:  # fmt: skip
            from torch.nn.functional import linear

            rows = x.reshape(-1, x.shape[-1])
            kept = a.dtype
            a, b = a.to(x.dtype), b.to(x.dtype)
            mask, seen = None, rows
            if share:
                mask, factor = keep_mask(
                    (rows.shape[0], rows.shape[1]), share, x.device, bits=_narrow(x)
                )
                seen, scale = kept_values(rows, mask), scale * factor
            low = seen @ a.T
            out = linear(rows, weight, bias).addmm_(low, b.T, alpha=scale)
            ctx.save_for_backward(rows, mask, low, weight, a, b)
            ctx.scale, ctx.type = scale, kept
            return out.view(*x.shape[:-1], weight.shape[0])

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Any:
            rows, mask, low, weight, a, b = ctx.saved_tensors
            (gradient,) = gradients
            flat = gradient.reshape(-1, gradient.shape[-1])
            back = (flat @ b).mul_(ctx.scale)
            of_b = (flat.T @ low).mul_(ctx.scale)
            of_a = back.T @ (rows if mask is None else kept_values(rows, mask))
            of_x = None
            if ctx.needs_input_grad[0]:
                of_x = flat @ weight
                if mask is None:
                    of_x.addmm_(back, a)
                else:
                    of_x.add_(kept_values(back @ a, mask))
                of_x = of_x.view(*gradient.shape[:-1], rows.shape[-1])
            return of_x, None, None, of_a.to(ctx.type), of_b.to(ctx.type), None, None

    return LoraLinear
