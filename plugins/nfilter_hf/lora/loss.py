"""The loss of one optimiser step: weights of an online loss, and backward passes from chunks of logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from nfilter import FloatArray, ModelError, TokenLoss
from nfilter_hf.lora.data import MicroBatch, cached_scores
from nfilter_hf.loss import Head, logit_chunks, token_losses

if TYPE_CHECKING:
    from torch import Tensor

Penalty: TypeAlias = "Callable[[slice, Tensor, Tensor], Tensor]"
"""From a chunk's slice, logits [m, vocabulary] and labels [m] to the sum of its penalties times their factors."""


def checked_stats(loss: TokenLoss, stats: Mapping[str, Any], n: int) -> None:
    """Check that each statistic of ``n`` predictions has the shape [n].

    Raises:
        ModelError: a statistic has another shape.
    """
    for name, values in stats.items():
        if tuple(values.shape) != (n,):
            raise _error(
                loss, f"its statistic {name!r} has the shape {list(values.shape)}, not [{n}]"
            )


def online_weights(
    loss: TokenLoss,
    stats: Mapping[str, Any],
    batches: Sequence[MicroBatch],
    device: Any,
    step: int,
) -> FloatArray:
    """Return the online loss's weights [n] for all predictions of ``batches``, in order, from ``stats``, each [n].

    The loss receives statistics and cached scores as torch tensors on ``device``.

    Raises:
        ModelError: the weights have another shape, a weight is not finite, or a weight is negative and the mean is
            over the weights (``mean_over`` is ``weighed``).
    """
    import torch

    n = sum(len(batch.labels) for batch in batches)
    cached = {
        name: torch.from_numpy(values).to(device) for name, values in cached_scores(batches).items()
    }
    given = loss.weigh(stats, cached, step)
    weights = np.asarray(torch.as_tensor(given).detach().cpu().float().numpy())
    if weights.shape != (n,):
        raise _error(loss, f"weigh returned weights of the shape {list(weights.shape)}, not [{n}]")
    bad = ~np.isfinite(weights)
    if bad.any():
        raise _error(
            loss,
            f"{int(bad.sum())} of {n} weights of step {step + 1} are not finite (first: {weights[bad][0]}); weigh "
            "must return a finite weight for every token",
        )
    if loss.mean_over == "weighed" and (weights < 0).any():
        raise _error(
            loss,
            "a weight is negative, so the mean over the weights is undefined; write mean_over = 'given'",
        )
    return weights


def _error(loss: TokenLoss, what: str) -> ModelError:
    return ModelError(f"the online loss {loss.name!r}: {what}")


def checked_penalty(loss: TokenLoss, values: Tensor, n: int) -> Tensor:
    """Return the penalties of ``n`` predictions.

    Raises:
        ModelError: they have another shape than [n].
    """
    if tuple(values.shape) != (n,):
        raise _error(loss, f"its penalty has the shape {list(values.shape)}, not [{n}]")
    return values


def backward_weighted(
    head: Head,
    hidden: Tensor,
    labels: Tensor,
    coefficients: Tensor,
    chunk: int,
    matrix: Tensor | None = None,
    penalty: Penalty | None = None,
) -> Tensor:
    """Add the gradient of ``sum(coefficients * losses)``, plus ``penalty``, to the parameters below ``hidden``; return it.

    ``hidden`` [n, d] are the states that predict ``labels`` [n]. The gradient of each chunk of ``chunk`` states is
    computed before the next chunk's logits, and the body has one backward pass. The sum is float32 and detached.
    With ``matrix``, the head's from ``frozen_matrix``, and no penalty, the gradient of the states is computed in closed form,
    in fewer passes over the logits than autograd takes.
    """
    import torch

    if matrix is not None and penalty is None:
        total, gradient = _direct(head, hidden.detach(), labels, coefficients, chunk, matrix)
        hidden.backward(gradient)  # type: ignore[no-untyped-call]
        return total
    leaf = hidden.detach().requires_grad_()
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    for where, logits, wanted in logit_chunks(head, leaf, labels, chunk):
        part = (token_losses(logits, wanted) * coefficients[where]).sum()
        if penalty is not None:
            part = part + penalty(where, logits, wanted)
        part.backward()  # type: ignore[no-untyped-call]
        total += part.detach()
    hidden.backward(leaf.grad)  # type: ignore[no-untyped-call]
    return total


def _direct(
    head: Head, hidden: Tensor, labels: Tensor, coefficients: Tensor, chunk: int, matrix: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the loss and the gradient [n, d] of ``hidden`` in closed form."""
    # The gradient of a loss is (p - the label's one-hot) @ matrix, with p = e / sum(e) and e = exp(logits - largest).
    # The division by the sum and the coefficient are applied to the rows of the product, which are far shorter.
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
