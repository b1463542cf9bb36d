"""Forward passes of training without padding, in which rows share a common prefix.

The rows of a pass are one sequence: first the tokens that all rows begin with, once, then the rest of each row. All layers
except attention work on single tokens and need no change; attention is computed here, for each row over the prefix and its own
tokens. The gradient of the prefix is the sum over the rows, as with a copy in each row. Only dropout differs: it drops the same
values of the prefix for all rows of a pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from nfilter import IntArray

if TYPE_CHECKING:
    from torch import Tensor

    from nfilter_hf.lora.data import MicroBatch

NAME = "nfilter_flat"
"""The name of this attention function in transformers."""
_IMPLEMENTATION = "_attn_implementation"
LONGEST = 512
"""Maximum tokens of a row: the attention weights that are stored grow with the square."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The positions of the tokens of R rows in one sequence of N: ``prefix`` shared tokens, then the others of each row.

    ``slots`` [R, L] are the positions of each row's own tokens, 0 where a row is shorter than L; ``back`` [N - prefix] are the
    indices of these tokens in the flattened ``slots``.
    """

    prefix: int
    slots: Tensor
    back: Tensor


@dataclass(frozen=True, slots=True)
class FlatBatch:
    """A micro-batch as one sequence: ``inputs`` and ``position_ids`` (each token's position in its row), both [1, N].

    ``positions`` [n] are the indices of the predictions in the N tokens.
    """

    inputs: Tensor
    position_ids: Tensor
    positions: Tensor
    layout: Layout


def shared_beginning(rows: list[IntArray]) -> int:
    """Return the length of the common prefix of ``rows``, less than the length of each row."""
    most = min(len(row) for row in rows) - 1
    if len(rows) == 1 or most < 1:
        return 0
    heads = np.stack([row[:most] for row in rows])
    same = (heads == heads[0]).all(axis=0)
    return most if same.all() else int(same.argmin())


def flatten(batch: MicroBatch) -> FlatBatch:
    """Return the rows of a micro-batch as one sequence without padding."""
    import torch

    rows = [row.inputs for row in batch.rows]
    prefix = shared_beginning(rows)
    lengths = np.asarray([len(row) - prefix for row in rows])
    starts = prefix + np.concatenate([[0], np.cumsum(lengths)[:-1]])
    longest = int(lengths.max())
    steps = np.arange(longest)
    own = steps < lengths[:, None]
    inputs = np.concatenate([rows[0][:prefix], *(row[prefix:] for row in rows)])
    position_ids = np.concatenate(
        [np.arange(prefix), (prefix + np.broadcast_to(steps, own.shape))[own]]
    )
    row, place = np.divmod(batch.positions, batch.inputs.shape[1])
    positions = np.where(place < prefix, place, starts[row] + place - prefix)
    return FlatBatch(
        inputs=torch.from_numpy(inputs)[None],
        position_ids=torch.from_numpy(position_ids)[None],
        positions=torch.from_numpy(positions),
        layout=Layout(
            prefix,
            torch.from_numpy(np.where(own, starts[:, None] + steps, 0)),
            torch.from_numpy(np.flatnonzero(own)),
        ),
    )


def can_flatten(module: Any) -> bool:
    """Whether only plain causal attention connects tokens in this model.

    True for architectures like Llama on a CPU in bfloat16, without attention windows or soft caps.
    """
    import torch

    parameter = next(module.parameters())
    config = module.config.get_text_config()
    windows = getattr(config, "layer_types", None) or ()
    return (
        parameter.device.type == "cpu"
        and parameter.dtype == torch.bfloat16
        and config.model_type in ("llama", "qwen2", "qwen3", "mistral", "granite", "smollm3", "olmo2")
        and getattr(module.config, _IMPLEMENTATION, None) == "sdpa"
        and not getattr(config, "attention_dropout", 0)
        and all(kind == "full_attention" for kind in windows)
        and (bool(windows) or getattr(config, "sliding_window", None) is None)
    )  # fmt: skip


@contextmanager
def flat_attention(module: Any) -> Iterator[None]:
    """In the block, the model computes attention with the layout passed to it as ``nfilter_layout``."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attention())
    with attention_named(module, NAME):
        yield


@contextmanager
def attention_named(module: Any, name: str) -> Iterator[None]:
    """In the block, the model uses the attention function that is registered in transformers under this name."""
    config = module.config
    before = getattr(config, _IMPLEMENTATION)
    setattr(config, _IMPLEMENTATION, name)
    try:
        yield
    finally:
        setattr(config, _IMPLEMENTATION, before)


@cache
def _attention() -> Any:
    from torch.autograd import Function

    class FlatAttention(Function):
        """softmax(q k' s) v by row: q [H, N, d], k and v [K, N, d] to [N, H, d]."""

        @staticmethod
        def forward(
            ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, layout: Layout
        ) -> Tensor:
            out, saved = _attended(query, key, value, scale, layout)
            ctx.save_for_backward(*saved)
            ctx.scale, ctx.layout = scale, layout
            return out

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Any:
            inputs = _input_gradients(gradients[0], ctx.saved_tensors, ctx.scale, ctx.layout)
            return (*inputs, None, None)

    run = FlatAttention.apply

    def attend(
        layer: Any,  # noqa: ARG001 (the library's signature)
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,  # noqa: ARG001
        *,
        scaling: float,
        nfilter_layout: Layout,
        **kwargs: Any,  # noqa: ARG001
    ) -> tuple[Tensor, None]:
        """Queries [1, H, N, d], keys and values [1, K, N, d] to [1, N, H, d]."""
        out: Tensor = run(query[0], key[0], value[0], scaling, nfilter_layout)  # type: ignore[no-untyped-call]
        return out[None], None

    return attend


def _attended(
    query: Tensor, key: Tensor, value: Tensor, scale: float, layout: Layout
) -> tuple[Tensor, list[Tensor]]:
    """The output [N, H, d], and the tensors for the backward pass.

    One product computes all rows and groups: queries are [R * K, H / K * L, d], keys and values, with the prefix before each
    row's own, [R * K, prefix + L, d]. The prefix has separate products.
    """
    import torch

    heads, count, width = query.shape
    groups, (rows, longest) = key.shape[0], layout.slots.shape
    prefix, slots = layout.prefix, layout.slots.view(-1)
    # Tokens first, so that one row of the matrix has all heads of one token.
    q, k, v = (t.transpose(0, 1).reshape(count, -1) for t in (query * scale, key, value))

    def by_row(t: Tensor) -> Tensor:
        own = t[slots].view(rows, longest, groups, -1, width)
        return own.permute(0, 2, 3, 1, 4).reshape(rows * groups, -1, width)

    def whole(t: Tensor) -> Tensor:
        head = t[:prefix].view(prefix, groups, width).transpose(0, 1)
        return torch.cat([head.repeat(rows, 1, 1), by_row(t)], 1)

    qr, kr, vr = by_row(q), whole(k), whole(v)
    p = _attention_weights(qr, kr, longest)
    own = torch.bmm(p, vr).view(rows, groups, -1, longest, width)
    out = query.new_empty(count, heads * width)
    out[prefix:] = own.permute(0, 3, 1, 2, 4).reshape(rows * longest, -1)[layout.back]
    saved = [p, qr, kr, vr]
    if prefix:
        qp = q[:prefix].view(prefix, groups, -1, width).permute(1, 2, 0, 3)
        qp = qp.reshape(groups, -1, width)
        pp = _attention_weights(qp, kr[:groups, :prefix], prefix)
        first = torch.bmm(pp, vr[:groups, :prefix]).view(groups, -1, prefix, width)
        out[:prefix] = first.permute(2, 0, 1, 3).reshape(prefix, -1)
        saved += [pp, qp]
    return out.view(count, heads, width), saved


def _input_gradients(
    gradient: Tensor, saved: Sequence[Tensor], scale: float, layout: Layout
) -> tuple[Tensor, ...]:
    """The gradients of query, key and value, each [heads, N, d], from the output's [N, H, d]."""
    import torch

    p, qr, kr, vr, *first = saved
    (count, heads, width), (rows, longest) = gradient.shape, layout.slots.shape
    groups, prefix = len(p) // rows, layout.prefix
    flat = gradient.reshape(count, -1)
    own = flat.new_zeros(rows * longest, heads * width)
    own[layout.back] = flat[prefix:]
    own = own.view(rows, longest, groups, -1, width).permute(0, 2, 3, 1, 4)
    parts = _product_gradients(p, qr, kr, vr, own.reshape(rows * groups, -1, width))
    gradients = []
    for part, before in zip(parts, (0, prefix, prefix), strict=True):
        mine = part[:, before:].reshape(rows, groups, -1, longest, width)
        whole = (
            torch.empty_like(flat) if part is parts[0] else flat.new_empty(count, groups * width)
        )
        whole[prefix:] = mine.permute(0, 3, 1, 2, 4).reshape(rows * longest, -1)[layout.back]
        gradients.append(whole)
    if prefix:
        pp, qp = first
        seen = flat[:prefix].view(prefix, groups, -1, width).permute(1, 2, 0, 3)
        seen = seen.reshape(groups, -1, width)
        ours = _product_gradients(pp, qp, kr[:groups, :prefix], vr[:groups, :prefix], seen)
        of_q = ours[0].view(groups, -1, prefix, width).permute(2, 0, 1, 3)
        gradients[0][:prefix] = of_q.reshape(prefix, -1)
        for at in (1, 2):
            from_rows = parts[at][:, :prefix].reshape(rows, groups, prefix, width).float().sum(0)
            gradients[at][:prefix] = (from_rows + ours[at]).transpose(0, 1).reshape(prefix, -1)
    gradients[0] *= scale
    return tuple(t.view(count, -1, width).transpose(0, 1) for t in gradients)


def _attention_weights(q: Tensor, k: Tensor, longest: int) -> Tensor:
    """softmax(q k') [B, G * L, T] of q [B, G * L, d] and k [B, T, d]: the last L of T are the queries' own positions."""
    import torch

    # In float32: the exponential amplifies rounding errors, and this product is small.
    scores = torch.bmm(q.float(), k.float().transpose(1, 2))
    # A token attends to the prefix, and to its row's own tokens up to itself.
    later = torch.ones(longest, longest, dtype=torch.bool).triu_(1)
    own = scores.view(-1, longest, k.shape[1])[:, :, -longest:]
    own.masked_fill_(later, -torch.inf)
    return scores.softmax(-1).to(q.dtype)


def _product_gradients(
    p: Tensor, q: Tensor, k: Tensor, v: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v from the gradient of p v."""
    import torch

    of_v = torch.bmm(p.transpose(1, 2), gradient)
    of_p = torch.bmm(gradient, v.transpose(1, 2))
    of_s = torch.ops.aten._softmax_backward_data(of_p, p, -1, p.dtype)  # noqa: SLF001 (autograd's own)
    return torch.bmm(of_s, k), torch.bmm(of_s.transpose(1, 2), q), of_v
