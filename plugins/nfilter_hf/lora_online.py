"""The weights that an online loss gives to the predictions of one optimiser step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nfilter import FloatArray, ModelError, TokenLoss
from nfilter_hf.batches_train import MicroBatch, cached_scores


def online_weights(
    loss: TokenLoss,
    parts: Sequence[Mapping[str, Any]],
    batches: Sequence[MicroBatch],
    device: Any,
    step: int,
) -> FloatArray:
    """Statistics by chunk to weights [n] for all predictions of ``batches``, in their order.

    Statistics and cached scores reach the loss as torch tensors on ``device``, which is all that is held: a few
    numbers a token.

    Raises:
        ModelError: where a statistic or the weights have another shape, a weight is not finite, or one is negative
            and the mean is over the weights themselves.
    """
    import torch

    n = sum(len(batch.labels) for batch in batches)
    stats = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    for name, values in stats.items():
        if tuple(values.shape) != (n,):
            raise _wrong(loss, f"its statistic {name!r} has shape {list(values.shape)}, not [{n}]")
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
