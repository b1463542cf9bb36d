"""Forward passes of training without padding, in which rows that begin alike share their beginning.

The rows of a pass stand one after another in a single sequence: first the tokens that all of them begin with, once,
then what is left of each. Every layer but attention works on single tokens and does not see the difference; attention
is computed here, row by row over the shared beginning and its own tokens. The beginning's gradient is the sum over the
rows, as it would be with a copy in each. Only dropout differs: it drops the same values of it for all rows of a pass.
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
"""Under this name transformers finds the attention of this file."""
_IMPLEMENTATION = "_attn_implementation"
LONGEST = 512
"""Tokens of a row up to which its pass is made here: the shares of attention that are kept grow with the square."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the tokens of R rows stand in one sequence of N: ``prefix`` shared ones, then each row's others.

    ``slots`` [R, L] are the places of each row's own tokens, with place 0 where a row is shorter than L; ``back``
    [N - prefix] is where in the flattened ``slots`` each of those tokens stands.
    """

    prefix: int
    slots: Tensor
    back: Tensor


@dataclass(frozen=True, slots=True)
class FlatBatch:
    """A micro-batch as one sequence: ``inputs`` and ``places`` (each token's position in its row), both [1, N].

    ``positions`` [n] index the N tokens where the batch's own index its padded rows.
    """

    inputs: Tensor
    places: Tensor
    positions: Tensor
    layout: Layout


def shared_beginning(rows: list[IntArray]) -> int:
    """How many tokens all ``rows`` begin with alike; at least the last token of each row is its own."""
    most = min(len(row) for row in rows) - 1
    if len(rows) == 1 or most < 1:
        return 0
    heads = np.stack([row[:most] for row in rows])
    same = (heads == heads[0]).all(axis=0)
    return most if same.all() else int(same.argmin())


def flatten(batch: MicroBatch) -> FlatBatch:
    """The rows of a micro-batch in one sequence, without padding."""
    import torch

    rows = [row.inputs for row in batch.rows]
    prefix = shared_beginning(rows)
    lengths = np.asarray([len(row) - prefix for row in rows])
    starts = prefix + np.concatenate([[0], np.cumsum(lengths)[:-1]])
    longest = int(lengths.max())
    steps = np.arange(longest)
    own = steps < lengths[:, None]
    inputs = np.concatenate([rows[0][:prefix], *(row[prefix:] for row in rows)])
    places = np.concatenate([np.arange(prefix), (prefix + np.broadcast_to(steps, own.shape))[own]])
    row, place = np.divmod(batch.positions, batch.inputs.shape[1])
    positions = np.where(place < prefix, place, starts[row] + place - prefix)
    return FlatBatch(
        inputs=torch.from_numpy(inputs)[None],
        places=torch.from_numpy(places)[None],
        positions=torch.from_numpy(positions),
        layout=Layout(
            prefix,
            torch.from_numpy(np.where(own, starts[:, None] + steps, 0)),
            torch.from_numpy(np.flatnonzero(own)),
        ),
    )


def can_flatten(module: Any) -> bool:
    """Whether attention is all that connects tokens in this model, and is causal and nothing more.

    True for what transformers builds like Llama, on a CPU, in bfloat16; a window or a soft cap on attention is more.
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
    """Inside, the model computes attention by the layout that its call is given as ``nfilter_layout``."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attention())
    with attention_named(module, NAME):
        yield


@contextmanager
def attention_named(module: Any, name: str) -> Iterator[None]:
    """Inside, the model computes attention with the function that transformers knows by this name."""
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
            found = _undone(gradients[0], ctx.saved_tensors, ctx.scale, ctx.layout)
            return (*found, None, None)

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
    """The output [N, H, d], and what the way back needs.

    One product serves all rows and groups: queries stand as [R * K, H / K * L, d], keys and values, with what is shared
    before each row's own, as [R * K, prefix + L, d]. What is shared has products of its own.
    """
    import torch

    heads, count, width = query.shape
    groups, (rows, longest) = key.shape[0], layout.slots.shape
    prefix, slots = layout.prefix, layout.slots.view(-1)
    # Tokens first, so that one row of a table is one token's heads.
    q, k, v = (t.transpose(0, 1).reshape(count, -1) for t in (query * scale, key, value))

    def by_row(t: Tensor) -> Tensor:
        own = t[slots].view(rows, longest, groups, -1, width)
        return own.permute(0, 2, 3, 1, 4).reshape(rows * groups, -1, width)

    def whole(t: Tensor) -> Tensor:
        head = t[:prefix].view(prefix, groups, width).transpose(0, 1)
        return torch.cat([head.repeat(rows, 1, 1), by_row(t)], 1)

    qr, kr, vr = by_row(q), whole(k), whole(v)
    p = _shares(qr, kr, longest)
    own = torch.bmm(p, vr).view(rows, groups, -1, longest, width)
    out = query.new_empty(count, heads * width)
    out[prefix:] = own.permute(0, 3, 1, 2, 4).reshape(rows * longest, -1)[layout.back]
    saved = [p, qr, kr, vr]
    if prefix:
        qp = q[:prefix].view(prefix, groups, -1, width).permute(1, 2, 0, 3)
        qp = qp.reshape(groups, -1, width)
        pp = _shares(qp, kr[:groups, :prefix], prefix)
        first = torch.bmm(pp, vr[:groups, :prefix]).view(groups, -1, prefix, width)
        out[:prefix] = first.permute(2, 0, 1, 3).reshape(prefix, -1)
        saved += [pp, qp]
    return out.view(count, heads, width), saved


def _undone(
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
    parts = _three(p, qr, kr, vr, own.reshape(rows * groups, -1, width))
    found = []
    for part, before in zip(parts, (0, prefix, prefix), strict=True):
        mine = part[:, before:].reshape(rows, groups, -1, longest, width)
        whole = (
            torch.empty_like(flat) if part is parts[0] else flat.new_empty(count, groups * width)
        )
        whole[prefix:] = mine.permute(0, 3, 1, 2, 4).reshape(rows * longest, -1)[layout.back]
        found.append(whole)
    if prefix:
        pp, qp = first
        seen = flat[:prefix].view(prefix, groups, -1, width).permute(1, 2, 0, 3)
        seen = seen.reshape(groups, -1, width)
        ours = _three(pp, qp, kr[:groups, :prefix], vr[:groups, :prefix], seen)
        of_q = ours[0].view(groups, -1, prefix, width).permute(2, 0, 1, 3)
        found[0][:prefix] = of_q.reshape(prefix, -1)
        for at in (1, 2):
            from_rows = parts[at][:, :prefix].reshape(rows, groups, prefix, width).float().sum(0)
            found[at][:prefix] = (from_rows + ours[at]).transpose(0, 1).reshape(prefix, -1)
    found[0] *= scale
    return tuple(t.view(count, -1, width).transpose(0, 1) for t in found)


def _shares(q: Tensor, k: Tensor, longest: int) -> Tensor:
    """softmax(q k') [B, G * L, T] of q [B, G * L, d] and k [B, T, d]: the last L of T are the queries' own places."""
    import torch

    # In float32: what the exponential gets is what rounding would hurt most, and this product is a small one.
    scores = torch.bmm(q.float(), k.float().transpose(1, 2))
    # A token sees all that is shared, and its row's own tokens up to itself.
    later = torch.ones(longest, longest, dtype=torch.bool).triu_(1)
    own = scores.view(-1, longest, k.shape[1])[:, :, -longest:]
    own.masked_fill_(later, -torch.inf)
    return scores.softmax(-1).to(q.dtype)


def _three(
    p: Tensor, q: Tensor, k: Tensor, v: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v, from that of p v."""
    import torch

    of_v = torch.bmm(p.transpose(1, 2), gradient)
    of_p = torch.bmm(gradient, v.transpose(1, 2))
    of_s = torch.ops.aten._softmax_backward_data(of_p, p, -1, p.dtype)  # noqa: SLF001 (autograd's own)
    return torch.bmm(of_s, k), torch.bmm(of_s.transpose(1, 2), q), of_v
