"""Splitting of texts that are longer than an encoder's window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nfilter import FloatArray

Window = Literal["head", "tail", "mean"]


@dataclass(frozen=True, slots=True)
class Parts:
    """Text parts to embed, with the index of each part's text (``owner``) and its number of ``tokens``.

    ``longer`` is the number of texts longer than the window, ``size`` the window in tokens.
    """

    parts: list[str]
    owner: list[int]
    tokens: list[int]
    longer: int
    size: int


def split(model: Any, texts: Sequence[str], window: Window, prompt: str = "") -> Parts | None:
    """Split ``texts`` into parts that fit the encoder's window, each with ``prompt`` prepended.

    Returns None if the encoder reports no limit. A part is tokenized again by the encoder: if it then has more tokens
    than within the whole text, its last one or two are truncated.
    """
    tokenizer: Any = getattr(model, "tokenizer", None)
    limit = getattr(model, "max_seq_length", None)
    if not getattr(tokenizer, "is_fast", False) or not isinstance(limit, int):
        return None
    prompt_tokens = len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) if prompt else 0
    size = limit - tokenizer.num_special_tokens_to_add() - prompt_tokens
    if size < 1:
        return None
    parts: list[str] = []
    owner: list[int] = []
    counts: list[int] = []
    longer = 0
    for index, text in enumerate(texts):
        # One text per call: a batch would keep the offsets of all texts in memory.
        spans = tokenizer(
            text,
            add_special_tokens=False,
            return_offsets_mapping=True,
            truncation=False,
            verbose=False,
        )["offset_mapping"]
        longer += len(spans) > size
        for part, tokens in _split_one(text, spans, size, window):
            parts.append(prompt + part)
            owner.append(index)
            counts.append(tokens)
    return Parts(parts, owner, counts, longer, size)


def _split_one(
    text: str, spans: Sequence[tuple[int, int]], size: int, window: Window
) -> list[tuple[str, int]]:
    if len(spans) <= size:
        return [(text, max(1, len(spans)))]
    if window == "head":
        return [(text, size)]
    starts = [len(spans) - size] if window == "tail" else range(0, len(spans), size)
    pieces = []
    for start in starts:
        part = spans[start : start + size]
        pieces.append((text[part[0][0] : part[-1][1]], len(part)))
    return pieces


def mean_of_parts(vectors: FloatArray, parts: Parts, count: int) -> FloatArray:
    """Average the ``vectors`` [parts, d] of each text's parts, weighted by token count, to float32 [count, d]."""
    weights = np.asarray(parts.tokens, dtype=np.float64)
    owner = np.asarray(parts.owner, dtype=np.int64)
    sums = np.zeros((count, vectors.shape[1]))
    np.add.at(sums, owner, vectors * weights[:, None])
    return np.asarray(sums / np.bincount(owner, weights, count)[:, None], dtype=np.float32)
