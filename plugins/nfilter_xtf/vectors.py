"""What single tokens mean to a model: the last hidden state of each, alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nfilter import IntArray, ModelError, RecipeError

Doubles: TypeAlias = npt.NDArray[np.float64]

BATCH = 512


def vectors(module: Any, ids: IntArray) -> Iterator[tuple[slice, Doubles]]:
    """The last hidden states of ``ids`` ([n], one token a row), in portions: places in ``ids`` and float64 [b, d]."""
    import torch

    device = next(module.parameters()).device
    for start in range(0, len(ids), BATCH):
        part = torch.from_numpy(np.array(ids[start : start + BATCH], dtype=np.int64))
        with torch.no_grad():
            out = module.base_model(input_ids=part[:, None].to(device), use_cache=False)
        states = out.last_hidden_state[:, 0].float().cpu().numpy().astype(np.float64)
        yield slice(start, start + len(part)), states


def mean_vector(module: Any, ids: IntArray, weights: Doubles) -> Doubles:
    """The mean of the vectors of ``ids``, with ``weights`` ([n]): float64 [d]."""
    total: Any = 0.0
    for place, states in vectors(module, ids):
        total = total + weights[place] @ states
    return np.asarray(total / weights.sum(), dtype=np.float64)


def cosines(module: Any, ids: IntArray, centre: Doubles) -> Doubles:
    """The cosine of each id's vector with ``centre`` ([d]): float64 [n]; NaN for a vector of length 0."""
    found = np.full(len(ids), np.nan)
    for place, states in vectors(module, ids):
        lengths = np.linalg.norm(states, axis=1) * np.linalg.norm(centre)
        ok = lengths > 0
        found[place] = np.divide(
            states @ centre, lengths, out=np.full(len(states), np.nan), where=ok
        )
    return found


def texts_of(tokenizer: Any, ids: Iterable[int]) -> list[str]:
    """The text of each id alone."""
    return [str(tokenizer.decode([int(number)])) for number in ids]


def control_ids(tokenizer: Any) -> frozenset[int]:
    """The ids that are no text: end of turn, padding and their like."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = {int(number) for number, token in added.items() if getattr(token, "special", False)}
    return frozenset(special | {int(number) for number in tokenizer.all_special_ids})


def word_ids(tokenizer: Any, words: Sequence[str]) -> tuple[IntArray, Doubles]:
    """The distinct ids of the words' tokens ([n], ascending) and the weight of each: every word counts 1.

    Raises RecipeError for a word that has no token.
    """
    weight: dict[int, float] = {}
    for word in words:
        ids = [int(number) for number in tokenizer(word, add_special_tokens=False)["input_ids"]]
        if not ids:
            raise RecipeError(
                f"xtf.relevance: the word {word!r} has no tokens under this model; take it out of words"
            )
        for number in ids:
            weight[number] = weight.get(number, 0.0) + 1 / len(ids)
    order = sorted(weight)
    return np.array(order, dtype=np.int64), np.array([weight[number] for number in order])


def tokenizer_of(lent: Any, model: str) -> Any:
    """The tokenizer that comes with a lent module. Raises ModelError where there is none."""
    tokenizer = getattr(lent, "tokenizer", None)
    if tokenizer is None:
        raise ModelError(
            f"model {model!r} lends no tokenizer, and xtf.relevance has to read the text of its tokens; use a local "
            "model, {use: hf, model: ...}"
        )
    return tokenizer
