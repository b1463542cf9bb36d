"""The loss of one optimiser step: the weights that an online loss gives, and the way back from chunks of logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nfilter import FloatArray, ModelError, TokenLoss
from nfilter_hf.lora.data import MicroBatch, cached_scores
from nfilter_hf.loss import Head, logit_chunks, token_losses

if TYPE_CHECKING:
    from torch import Tensor


def checked_stats(loss: TokenLoss, stats: Mapping[str, Any], n: int) -> None:
    """Raises ModelError where a statistic of ``n`` predictions is not [n]."""
    for name, values in stats.items():
        if tuple(values.shape) != (n,):
            raise _wrong(loss, f"its statistic {name!r} has shape {list(values.shape)}, not [{n}]")


def online_weights(
    loss: TokenLoss,
    stats: Mapping[str, Any],
    batches: Sequence[MicroBatch],
    device: Any,
    step: int,
) -> FloatArray:
    """Statistics [n] by name to weights [n] for all predictions of ``batches``, in their order.

    Statistics and cached scores reach the loss as torch tensors on ``device``, which is all that is held: a few
    numbers per token.

    Raises:
        ModelError: where the weights have another shape, one is not finite, or one is negative and the mean is over
            the weights themselves.
    """
    import torch

    n = sum(len(batch.labels) for batch in batches)
    cached = {
        name: torch.from_numpy(values).to(device) for name, values in cached_scores(batches).items()
    }
    given = loss.weigh(stats, cached, step)
    weights = np.asarray(torch.as_tensor(given).detach().cpu().float().numpy())
    if weights.shape != (n,):
        raise _wrong(loss, f"weigh gave weights of shape {list(weights.shape)}, not [{n}]")
    bad = ~np.isfinite(weights)
    if bad.any():
        raise _wrong(
            loss,
            f"{int(bad.sum())} of {n} weights of step {step + 1} are not finite (first: {weights[bad][0]}); weigh "
            "must give a finite weight for every token",
        )
    if loss.mean_over == "weighed" and (weights < 0).any():
        raise _wrong(
            loss,
            "a weight is negative, and no mean over such weights is one; write mean_over = 'given'",
        )
    return weights


def _wrong(loss: TokenLoss, what: str) -> ModelError:
    return ModelError(f"the online loss {loss.name!r}: {what}")


def backward_weighted(
    head: Head,
    hidden: Tensor,
    labels: Tensor,
    coefficients: Tensor,
    chunk: int,
    matrix: Tensor | None = None,
) -> Tensor:
    """Add the gradient of ``sum(coefficients * losses)`` to all parameters behind ``hidden``; return that sum.

    ``hidden`` [n, d] are the states that predict ``labels`` [n]. Every chunk goes back to the hidden states before
    the next chunk's logits are made, and the body is walked back once. The sum returned is float32, detached.
    ``matrix`` is the head's, where ``frozen_matrix`` gave one: the states' gradient is then written down directly,
    in fewer passes over the logits than autograd makes.
    """
    import torch

    if matrix is not None:
        total, gradient = _direct(head, hidden.detach(), labels, coefficients, chunk, matrix)
        hidden.backward(gradient)  # type: ignore[no-untyped-call]
        return total
    leaf = hidden.detach().requires_grad_()
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    for where, logits, wanted in logit_chunks(head, leaf, labels, chunk):
        part = (token_losses(logits, wanted) * coefficients[where]).sum()
        part.backward()  # type: ignore[no-untyped-call]
        total += part.detach()
    hidden.backward(leaf.grad)  # type: ignore[no-untyped-call]
    return total


def _direct(
    head: Head, hidden: Tensor, labels: Tensor, coefficients: Tensor, chunk: int, matrix: Tensor
) -> tuple[Tensor, Tensor]:
    # The gradient of a loss is (p - the label's one-hot) @ matrix, with p = e / sum(e) and e = exp(logits - largest).
    # Its division by the sum and its coefficient are left to the rows of the product, which are far shorter.
    import torch

    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    gradient = torch.empty_like(hidden)
    with torch.no_grad():
        for where, logits, wanted in logit_chunks(head, hidden, labels, chunk):
            at, factors = wanted[:, None], coefficients[where]
            dtype, powers = logits.dtype, logits.float()
            target = powers.gather(1, at)
            largest = powers.amax(-1, keepdim=True)
            powers.sub_(largest).exp_()
            sums = powers.sum(-1, keepdim=True)
            total += ((sums.log() + largest - target)[:, 0] * factors).sum()
            powers.scatter_add_(1, at, -sums)
            rows = powers.to(dtype) @ matrix.to(dtype)
            gradient[where] = (rows * (factors[:, None] / sums)).to(gradient.dtype)
    return total, gradient
