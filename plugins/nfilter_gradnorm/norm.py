"""The norm of the gradient of a sample's loss with respect to the output matrix, in closed form."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np

from nfilter import ModelError, TokenSample


def head_norm(module: Any, sample: TokenSample) -> float:
    """Return the Frobenius norm of the gradient of the mean loss of the response's tokens; NaN without a prediction.

    For n predictions with hidden states h, probabilities p and one-hot labels y, the gradient with respect to the output matrix
    is (1/n) sum_t (p_t - y_t) h_t', and its squared norm is (1/n^2) sum_st ((p_s - y_s) . (p_t - y_t)) (h_s . h_t): one forward
    pass and two n x n products. If the input embeddings are the same matrix, their part of the gradient is not counted.

    Raises:
        ModelError: the model changes the logits after its output matrix, or has none.
    """
    import torch

    where = np.flatnonzero(sample.predicted)
    if not len(where):
        return math.nan
    device = next(module.parameters()).device
    ids = torch.from_numpy(np.array(sample.ids[: where[-1] + 1], dtype=np.int64)).to(device)
    with torch.no_grad():
        states, logits = _states_and_logits(module, ids[None, :-1], int(where[-1] - where[0]) + 1)
        rows = torch.from_numpy(where - where[0]).to(logits.device)
        labels = ids[torch.from_numpy(where).to(device)].to(logits.device)
        errors = logits[rows].float().softmax(-1)
        errors[torch.arange(len(rows), device=logits.device), labels] -= 1
        h = states[rows].float()
        products = (errors @ errors.T).double() * (h @ h.T).double()
    return math.sqrt(max(0.0, float(products.sum()))) / len(where)


def _states_and_logits(module: Any, ids: Any, count: int) -> tuple[Any, Any]:
    """Return the last ``count`` hidden states [count, d] that the output matrix reads, and logits [count, vocabulary]."""
    import torch

    head = module.get_output_embeddings()
    if head is None:
        raise _other_head(module)
    read: list[tuple[Any, Any]] = []
    handle = head.register_forward_hook(lambda _, given, out: read.append((given[0], out)))
    more: dict[str, Any] = {}
    if "logits_to_keep" in inspect.signature(module.forward).parameters:
        more["logits_to_keep"] = count
    try:
        logits = module(input_ids=ids, use_cache=False, **more).logits[0, -count:]
    finally:
        handle.remove()
    if len(read) != 1 or not torch.equal(read[0][1][0, -count:].to(logits.dtype), logits):
        raise _other_head(module)
    return read[0][0][0, -count:], logits


def _other_head(module: Any) -> ModelError:
    return ModelError(
        f"{type(module).__name__} changes the logits after its output matrix, so gradnorm.score has no closed form for it; name "
        "another model for this stage, such as a Llama or Qwen kind"
    )
