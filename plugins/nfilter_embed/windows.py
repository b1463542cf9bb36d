"""Texts that are longer than an encoder's window: which part of them it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nfilter import FloatArray

Window = Literal["head", "tail", "mean"]


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of texts that are embedded.

    ``parts`` holds them, ``owner`` the place of the text that each is of, ``tokens`` how many tokens each has.
    ``longer`` counts the texts that did not fit, and ``size`` is the window in tokens.
    """

    parts: list[str]
    owner: list[int]
    tokens: list[int]
    longer: int
    size: int


def split(model: Any, texts: Sequence[str], window: Window, prompt: str = "") -> Parts | None:
    """The parts of ``texts`` that an encoder is shown, each with ``prompt`` before it; None where it tells no limit.

    A text is cut between tokens, and a part is text again: where the encoder makes more tokens of it than it had in the
    whole text, its last one or two are not read.
    """
    tokenizer: Any = getattr(model, "tokenizer", None)
    limit = getattr(model, "max_seq_length", None)
    if not getattr(tokenizer, "is_fast", False) or not isinstance(limit, int):
        return None
    begin = len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) if prompt else 0
    size = limit - tokenizer.num_special_tokens_to_add() - begin
    if size < 1:
        return None
    parts: list[str] = []
    owner: list[int] = []
    counts: list[int] = []
    longer = 0
    for place, text in enumerate(texts):
        # Each by itself: a batch of them would hold the offsets of all.
        spans = tokenizer(
            text,
            add_special_tokens=False,
            return_offsets_mapping=True,
            truncation=False,
            verbose=False,
        )["offset_mapping"]
        longer += len(spans) > size
        for part, tokens in _pieces(text, spans, size, window):
            parts.append(prompt + part)
            owner.append(place)
            counts.append(tokens)
    return Parts(parts, owner, counts, longer, size)


def _pieces(
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


def together(vectors: FloatArray, parts: Parts, count: int) -> FloatArray:
    """float32 [count, d]: the mean of each text's parts, weighted by their tokens; ``vectors`` are [parts, d]."""
    weights = np.asarray(parts.tokens, dtype=np.float64)
    owner = np.asarray(parts.owner, dtype=np.int64)
    sums = np.zeros((count, vectors.shape[1]))
    np.add.at(sums, owner, vectors * weights[:, None])
    return np.asarray(sums / np.bincount(owner, weights, count)[:, None], dtype=np.float32)
