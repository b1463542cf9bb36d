"""Attention that each token receives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

from nfilter import Attends, FloatArray, TokenSample, response_attention
from nfilter_xtf.presets import Preset

if TYPE_CHECKING:
    from torch import Tensor

Reduce: TypeAlias = "Callable[[Tensor, TokenSample], Tensor]"


def importances(
    model: Attends,
    samples: Sequence[TokenSample],
    preset: Preset,
    advance: Callable[[int], None] | None = None,
) -> Iterator[FloatArray]:
    """Yield float32 [T] per sample, NaN outside the response.

    With A_ij the attention of query i to key j, averaged over layers and heads, and positions from 0:

    - ``default``: the mean over i > j of (i + 1) A_ij, which is 1 for uniform attention; NaN at the last token;
    - ``paper``: the mean over i of A_ij (the score of Eq. 5);
    - ``official``: the mean over *keys* of the first layer's attention, as in the published code: 1 / T up to rounding.

    ``advance`` is called with each sample's number of tokens. A sample without a response is not read.
    """
    reduce: Reduce = {
        "default": _mean_from_later, "paper": _mean_received, "official": _mean_over_keys
    }[preset]  # fmt: skip
    layers = slice(1) if preset == "official" else slice(None)
    scores = response_attention(model, samples, reduce, layers)
    for sample, values in zip(samples, scores, strict=True):
        if advance is not None:
            advance(len(sample.ids))
        yield values


def _mean_from_later(weights: Tensor, sample: TokenSample) -> Tensor:
    """Reduce [H, T, T] to [T]: the mean over later queries i of (i + 1) A_ij; NaN at the last token."""
    import torch

    size = len(sample.ids)
    mean = weights.float().mean(0).tril(-1)
    rank = torch.arange(1, size + 1, device=mean.device, dtype=mean.dtype)
    sums = (mean * rank[:, None]).sum(0)
    # 0 / 0 at the last token.
    return sums / (size - rank)


def _mean_received(weights: Tensor, sample: TokenSample) -> Tensor:  # noqa: ARG001
    return weights.float().mean(0).mean(0)


def _mean_over_keys(weights: Tensor, sample: TokenSample) -> Tensor:  # noqa: ARG001
    return weights.float().mean(0).mean(1)
