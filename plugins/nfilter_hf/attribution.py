"""Attribute the probability of tokens to the tokens before them, by gradients of the input embeddings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from nfilter import FloatArray, IntArray, ModelError, TokenSample
from nfilter_hf.attention import check_length

Select = Callable[[TokenSample], tuple[IntArray, IntArray]]


def read_attributions(
    module: Any, samples: Sequence[TokenSample], select: Select, steps: int
) -> Iterator[FloatArray]:
    """Yield what ``nfilter.Attributes`` says; ``module`` is a causal model of transformers in eval mode.

    Integrated gradients (Sundararajan et al., arXiv 1703.01365) of F, the sum of log p over the targets, along the straight line
    from a baseline to the embeddings of the sources, all at once; the other tokens stay. The baseline is the embedding of the
    padding token, or the mean of all embeddings if there is none or it is zero. The integral is a sum over the middles of
    ``steps`` equal parts, each with one forward and one backward pass.

    Raises:
        ModelError: a sample exceeds the model's context or memory.
    """
    import torch

    with _frozen(module):
        for sample in samples:
            out = np.full(len(sample.ids), np.nan, dtype=np.float32)
            sources, targets = select(sample)
            if len(sources) and len(targets):
                check_length(module, sample)
                try:
                    out[sources] = _integrated(module, sample, sources, targets, steps)
                except torch.OutOfMemoryError as error:
                    raise ModelError(
                        f"sample {sample.id!r}: the gradients of {len(sample.ids)} tokens do not fit in memory; lower "
                        "encode.max_length, or set device: cpu for this model"
                    ) from error
            yield out


def _integrated(
    module: Any, sample: TokenSample, sources: IntArray, targets: IntArray, steps: int
) -> FloatArray:
    import torch
    from torch.nn.functional import cross_entropy

    embed = module.get_input_embeddings()
    device = embed.weight.device
    ids = torch.from_numpy(np.array(sample.ids[: targets[-1] + 1], dtype=np.int64)).to(device)
    at = torch.from_numpy(np.asarray(sources, dtype=np.int64)).to(device)
    predicted = torch.from_numpy(np.asarray(targets - targets[0], dtype=np.int64))
    labels = ids[torch.from_numpy(np.asarray(targets, dtype=np.int64)).to(device)]
    with torch.no_grad():
        vectors = embed(ids[None, :-1])
        base = _baseline(module, embed).to(vectors.dtype)
        line = vectors[0, at] - base
    total = torch.zeros(line.shape, dtype=torch.float32, device=device)
    for step in range(steps):
        leaf = (base + (step + 0.5) / steps * line).detach().requires_grad_()
        inputs = vectors.clone()
        inputs[0, at] = leaf
        logits = _last_logits(module, inputs, len(ids) - int(targets[0]))
        rows = logits[predicted.to(logits.device)].float()
        loss = cross_entropy(rows, labels.to(rows.device), reduction="sum")
        total -= torch.autograd.grad(loss, leaf)[0].float()
    found: FloatArray = (total / steps * line.float()).sum(-1).cpu().numpy()
    return found


def _baseline(module: Any, embed: Any) -> Any:
    """Return the baseline [d]. A line from zero changes only the length of a vector, which a norm before the layers removes."""
    import torch

    pad = getattr(module.config, "pad_token_id", None)
    with torch.no_grad():
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
