"""What each token of the reasoning contributes to the answer, from a local model."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from nfilter import FloatArray, TokenSample
from nfilter_segments.split import Parts

_LOGITS = 2**22


def integrated_gradients(module: Any, sample: TokenSample, parts: Parts, steps: int) -> FloatArray:
    """Return float32 [T], NaN outside the reasoning: the part of log p(answer) that each token of the reasoning adds.

    Integrated gradients (Sundararajan et al., arXiv 1703.01365) of F, the sum of log p over the answer's tokens, along the
    straight line from a baseline to the token's embedding, for all tokens of the reasoning at once; prompt and answer stay. The
    baseline is the embedding of the padding token, or the mean of all embeddings if there is none or it is zero. The integral is a sum over the middles of ``steps`` equal parts, and
    each part takes a forward and a backward pass. The attributions add up to F minus F at the baseline.
    """
    import torch
    from torch.nn.functional import cross_entropy

    out = np.full(len(sample.ids), np.nan, dtype=np.float32)
    where, targets = parts.reasoning, parts.answer[parts.answer > 0]
    if not len(where) or not len(targets):
        return out
    embed = module.get_input_embeddings()
    device = embed.weight.device
    ids = torch.from_numpy(np.array(sample.ids[: targets[-1] + 1], dtype=np.int64)).to(device)
    at, predicted = torch.from_numpy(where).to(device), torch.from_numpy(targets - targets[0])
    labels = ids[torch.from_numpy(targets).to(device)]
    with torch.no_grad():
        vectors = embed(ids[None, :-1])
        base = _baseline(module, embed).to(vectors.dtype)
        line = vectors[0, at] - base
    total = torch.zeros(line.shape, dtype=torch.float32, device=device)
    with _frozen(module):
        for step in range(steps):
            leaf = (base + (step + 0.5) / steps * line).detach().requires_grad_()
            inputs = vectors.clone()
            inputs[0, at] = leaf
            logits = _last_logits(module, inputs, len(ids) - int(targets[0]))
            rows = logits[predicted.to(logits.device)].float()
            loss = cross_entropy(rows, labels.to(rows.device), reduction="sum")
            total -= torch.autograd.grad(loss, leaf)[0].float()
    out[where] = (total / steps * line.float()).sum(-1).cpu().numpy()
    return out


def entropies(module: Any, sample: TokenSample) -> FloatArray:
    """Return float32 [T], NaN for tokens without a prediction: the entropy of the prediction of each token, in nats."""
    import torch

    out = np.full(len(sample.ids), np.nan, dtype=np.float32)
    where = np.flatnonzero(sample.predicted)
    if not len(where):
        return out
    device = next(module.parameters()).device
    ids = torch.from_numpy(np.array(sample.ids, dtype=np.int64)).to(device)
    with torch.no_grad():
        logits = module(input_ids=ids[None, : int(where[-1])], use_cache=False).logits[0]
        size = max(1, _LOGITS // logits.shape[-1])
        for start in range(0, len(where), size):
            at = where[start : start + size]
            logs = logits[torch.from_numpy(at - 1).to(logits.device)].float().log_softmax(-1)
            p = logs.exp()
            out[at] = -p.xlogy(p).sum(-1).cpu().numpy()
    return out


def _baseline(module: Any, embed: Any) -> Any:
    """Return the baseline [d]. A line from zero changes only the length of a vector, which a norm before the layers removes."""
    import torch

    pad = getattr(module.config, "pad_token_id", None)
    if pad is not None:
        vector = embed(torch.tensor([pad], device=embed.weight.device))[0]
        if vector.any():
            return vector
    return embed(torch.arange(embed.num_embeddings, device=embed.weight.device)).float().mean(0)


def _last_logits(module: Any, inputs: Any, count: int) -> Any:
    """Return the last ``count`` logits [count, vocabulary]; only these are computed if the model supports that."""
    more = {}
    if "logits_to_keep" in inspect.signature(module.forward).parameters:
        more["logits_to_keep"] = count
    return module(inputs_embeds=inputs, use_cache=False, **more).logits[0, -count:]


@contextmanager
def _frozen(module: Any) -> Iterator[None]:
    """Compute no gradients of parameters inside the block."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(requires_grad=False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(requires_grad=True)
