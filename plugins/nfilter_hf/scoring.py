"""Compute per-token losses of given tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nfilter import FloatArray, ModelError, TokenSample
from nfilter_hf.batching import Budget
from nfilter_hf.embedding import hidden_states
from nfilter_hf.loading import Loaded
from nfilter_hf.loss import Head, Losses, chunk_size, losses_of, output_head, token_losses

if TYPE_CHECKING:
    from torch import Tensor

_Item = tuple[int, TokenSample]


def score(loaded: Loaded, samples: Sequence[TokenSample], budget: Budget) -> list[FloatArray]:
    """Return one float32 array [T] per sample: -log p(token | tokens before it), natural log.

    NaN at position 0, which nothing predicts, and outside the response.

    Raises:
        ModelError: if a sample is longer than the model's context, or memory runs out on one sample.
    """
    losses = [np.full(len(sample.ids), np.nan, dtype=np.float32) for sample in samples]
    items: list[_Item] = []
    for index, sample in enumerate(samples):
        if len(sample.ids) > loaded.context:
            raise ModelError(
                f"sample {sample.id!r} has {len(sample.ids)} tokens, more than the model's context of {loaded.context}: "
                f"set encode.max_length to {loaded.context} or less"
            )
        if sample.response[1:].any():
            items.append((index, sample))
    if not items:
        return losses
    head = _checked_head(loaded)
    measure = losses_of(loaded.module, head) if head is not None else None

    def work(batch: Sequence[_Item]) -> None:
        computed = _losses(loaded, measure, [sample for _, sample in batch])
        for (index, sample), values in zip(batch, computed, strict=True):
            losses[index][np.flatnonzero(sample.predicted)] = values

    budget.run(items, lambda item: _size(item[1]), work, _no_memory)
    return losses


def _losses(
    loaded: Loaded, measure: Losses | None, samples: Sequence[TokenSample]
) -> list[FloatArray]:
    """The losses of each sample of a batch at its predicted positions; the batch is padded on the right."""
    import torch

    # Tokens after the last prediction are not needed.
    sizes = [_size(sample) for sample in samples]
    ids = torch.full((len(samples), max(sizes)), loaded.pad_id)
    before = torch.zeros(ids.shape, dtype=torch.bool)
    parts = []
    for row, (sample, size) in enumerate(zip(samples, sizes, strict=True)):
        whole = torch.from_numpy(np.ascontiguousarray(sample.ids))
        wanted = torch.from_numpy(sample.predicted)
        ids[row, :size] = whole[:size]
        before[row, :size] = wanted[1 : size + 1]
        parts.append(whole[wanted])
    labels = torch.cat(parts).to(loaded.device)
    with torch.inference_mode():
        if measure is None:
            losses = _by_whole_model(loaded, samples)
        else:
            # No mask: padding is after all tokens that are read, and attention is causal.
            states = hidden_states(loaded, input_ids=ids.to(loaded.device))
            # The state before a token predicts it; only these states pass through the head.
            states = states[before.to(loaded.device)]
            losses = measure(states, labels)
    counts = [len(part) for part in parts]
    return [np.asarray(part.cpu().numpy(), np.float32) for part in torch.split(losses, counts)]


def _size(sample: TokenSample) -> int:
    """The number of tokens that a model reads for the losses of ``sample``."""
    return int(np.flatnonzero(sample.response)[-1])


def _by_whole_model(loaded: Loaded, samples: Sequence[TokenSample]) -> Tensor:
    """Losses of an architecture with an unknown output head: full forward passes, one sample at a time."""
    import torch

    parts = []
    for sample in samples:
        ids = torch.from_numpy(np.ascontiguousarray(sample.ids))[: _size(sample) + 1].to(
            loaded.device
        )
        where = torch.from_numpy(np.flatnonzero(sample.predicted)).to(loaded.device)
        logits = loaded.module(input_ids=ids[None, :-1], use_cache=False).logits[0]
        chunk = chunk_size(logits.shape[-1], loaded.device.type)
        for at in range(0, len(where), chunk):
            spot = where[at : at + chunk]
            parts.append(token_losses(logits[spot - 1], ids[spot]))
    return torch.cat(parts)


def _checked_head(loaded: Loaded) -> Head | None:
    """The output head if its logits equal those of the full model on a few tokens; else None."""
    import torch

    head = output_head(loaded.module)
    vocabulary = loaded.module.config.get_text_config().vocab_size
    ids = torch.tensor([[0, 1, 2, 3]], device=loaded.device) % vocabulary
    with torch.no_grad():
        whole = loaded.module(input_ids=ids, use_cache=False).logits.float()
        parts = head(hidden_states(loaded, input_ids=ids)).float()
    same = whole.shape == parts.shape and torch.allclose(whole, parts, rtol=1e-2, atol=1e-3)
    return head if same else None


def _no_memory(item: _Item) -> None:
    raise ModelError(
        f"sample {item[1].id!r} of {len(item[1].ids)} tokens cannot be scored: memory ran out. Lower encode.max_length, "
        "or set load_in_4bit or device: cpu for this model"
    )
