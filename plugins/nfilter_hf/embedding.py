"""Embed texts as the mean of a model's hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nfilter import FloatArray, ModelError
from nfilter_hf.batching import Budget
from nfilter_hf.loading import Loaded

_Item = tuple[int, list[int]]
Window = Literal["head", "tail", "mean"]


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors, float32 [n, d], and the number of texts that were longer than the model's context."""

    vectors: FloatArray
    longer: int


def embed(
    loaded: Loaded,
    texts: Sequence[str],
    budget: Budget,
    layer: int | float | None = None,
    window: Window = "head",
) -> Embedded:
    """Average the hidden states of ``layer`` over each text's tokens; vectors are not normalised.

    Layer 0 are the token embeddings, None is the last layer; a share between 0 and 1 is that share of the depth. If a text is
    longer than the model's context, ``window`` selects its first tokens, its last tokens, or all of them in parts. A text
    without tokens has the zero vector.

    Raises:
        ModelError: if the model has no such layer, or memory runs out on one text.
    """
    shape = loaded.module.config.get_text_config()
    width = int(shape.hidden_size)
    if isinstance(layer, float):
        layer = max(1, round(layer * int(shape.num_hidden_layers)))
    if layer is not None and layer > int(shape.num_hidden_layers):
        raise ModelError(
            f"embed_layer {layer}: the model has layers 0 to {shape.num_hidden_layers}; choose one of them"
        )
    vectors = np.zeros((len(texts), width), dtype=np.float32)
    items: list[_Item] = []
    longer = 0
    for index, text in enumerate(texts):
        ids = _ids(loaded, text)
        longer += len(ids) > loaded.context
        items += [(index, part) for part in _parts(loaded, ids, window) if part]
    owner = np.asarray([index for index, _ in items], dtype=np.int64)
    sizes = np.bincount(owner, [len(ids) for _, ids in items], len(texts))

    def work(batch: Sequence[_Item]) -> None:
        means = _means(loaded, [ids for _, ids in batch], layer)
        for (index, ids), mean in zip(batch, means, strict=True):
            vectors[index] += mean * (len(ids) / sizes[index])

    budget.run(items, lambda item: len(item[1]), work, _no_memory)
    return Embedded(vectors, longer)


def hidden_states(loaded: Loaded, layer: int | None = None, **inputs: Any) -> Any:
    """Return the hidden states of ``layer`` (by default the last), [n, t, d], without running the output head."""
    body = loaded.module.base_model
    if body is not loaded.module and layer is None:
        return body(**inputs, use_cache=False).last_hidden_state
    states = body(**inputs, use_cache=False, output_hidden_states=True).hidden_states
    return states[-1 if layer is None else layer]


def _ids(loaded: Loaded, text: str) -> list[int]:
    encoder = loaded.chat.encoder
    mark = encoder.break_for([text])
    return encoder.encode(encoder.shield(text, mark), mark, special=True).ids


def _parts(loaded: Loaded, ids: list[int], window: Window) -> list[list[int]]:
    """The embedded parts of a text; each begins with the control tokens that the tokenizer puts first."""
    context = loaded.context
    if len(ids) <= context or window == "head":
        return [ids[:context]]
    special = set(loaded.tokenizer.all_special_ids)
    first = next((index for index, token in enumerate(ids) if token not in special), 0)
    first = min(first, context - 1)
    head, rest, size = ids[:first], ids[first:], context - first
    if window == "tail":
        return [head + rest[-size:]]
    return [head + rest[start : start + size] for start in range(0, len(rest), size)]


def _means(loaded: Loaded, rows: Sequence[list[int]], layer: int | None) -> FloatArray:
    import torch

    ids, mask = loaded.padded(rows)
    with torch.no_grad():
        states = hidden_states(loaded, layer, input_ids=ids, attention_mask=mask).float()
        # Not a product with the mask, because padding may have values that are not finite.
        states = states.masked_fill(mask.unsqueeze(-1) == 0, 0.0)
        means = states.sum(1) / mask.sum(1, keepdim=True)
    return np.asarray(means.cpu().numpy(), dtype=np.float32)


def _no_memory(item: _Item) -> None:
    raise ModelError(
        f"a text of {len(item[1])} tokens cannot be embedded: memory ran out. Set max_length for this model, or device: cpu"
    )
