"""Vectors of single tokens: the last hidden state of each token alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nfilter import IntArray, ModelError, RecipeError

Doubles: TypeAlias = npt.NDArray[np.float64]

BATCH = 512


def vectors(module: Any, ids: IntArray) -> Iterator[tuple[slice, Doubles]]:
    """Yield (slice of ``ids``, float64 [b, d]): the last hidden states of ``ids`` ([n]), one token per row, in batches."""
    import torch

    device = next(module.parameters()).device
    for start in range(0, len(ids), BATCH):
        part = torch.from_numpy(np.array(ids[start : start + BATCH], dtype=np.int64))
        with torch.no_grad():
            out = module.base_model(input_ids=part[:, None].to(device), use_cache=False)
        states = out.last_hidden_state[:, 0].float().cpu().numpy().astype(np.float64)
        yield slice(start, start + len(part)), states


def mean_vector(module: Any, ids: IntArray, weights: Doubles) -> Doubles:
    """Return the mean of the vectors of ``ids``, weighted by ``weights`` ([n]): float64 [d]."""
    total: Any = 0.0
    for rows, states in vectors(module, ids):
        total = total + weights[rows] @ states
    return np.asarray(total / weights.sum(), dtype=np.float64)


def cosines(module: Any, ids: IntArray, centre: Doubles) -> Doubles:
    """Return the cosine of each id's vector with ``centre`` ([d]): float64 [n]; NaN for a zero vector."""
    result = np.full(len(ids), np.nan)
    for rows, states in vectors(module, ids):
        lengths = np.linalg.norm(states, axis=1) * np.linalg.norm(centre)
        nonzero = lengths > 0
        result[rows] = np.divide(
            states @ centre, lengths, out=np.full(len(states), np.nan), where=nonzero
        )
    return result


def texts_of(tokenizer: Any, ids: Iterable[int]) -> list[str]:
    """Return the decoded text of each id alone."""
    return [str(tokenizer.decode([int(number)])) for number in ids]


def control_ids(tokenizer: Any) -> frozenset[int]:
    """Return the ids of special tokens: end of turn, padding and the like."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = {int(number) for number, token in added.items() if getattr(token, "special", False)}
    return frozenset(special | {int(number) for number in tokenizer.all_special_ids})


def word_ids(tokenizer: Any, words: Sequence[str]) -> tuple[IntArray, Doubles]:
    """Return the distinct ids of the words' tokens ([n], ascending) and their weights; each word has total weight 1.

    Raises RecipeError for a word without tokens.
    """
    weight: dict[int, float] = {}
    for word in words:
        ids = [int(number) for number in tokenizer(word, add_special_tokens=False)["input_ids"]]
        if not ids:
            raise RecipeError(
                f"xtf.relevance: a word has no tokens under this model; remove {word!r} from words"
            )
        for number in ids:
            weight[number] = weight.get(number, 0.0) + 1 / len(ids)
    order = sorted(weight)
    return np.array(order, dtype=np.int64), np.array([weight[number] for number in order])


def tokenizer_of(lent: Any, model: str) -> Any:
    """Return the tokenizer of a lent module; raise ModelError if it has none."""
    tokenizer = getattr(lent, "tokenizer", None)
    if tokenizer is None:
        raise ModelError(
            f"model {model!r} provides no tokenizer, which xtf.relevance needs to read the text of tokens; use a local "
            "model, {use: hf, model: ...}"
        )
    return tokenizer
