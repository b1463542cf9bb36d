"""Conversations to token samples: ids, and which of them an assistant wrote."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nfilter import Sample, TokenSample
from nfilter_hf.chat import ChatError, Rendered
from nfilter_hf.loading import Loaded


def encode(
    loaded: Loaded, samples: Sequence[Sample], *, max_length: int, turns: str
) -> list[TokenSample]:
    """Token samples of at most ``max_length`` tokens, cut on the right.

    ``response`` marks each assistant turn (``turns: all``) or the last one, with its end-of-turn token. What comes
    before a response is, token for token, what the model is shown when it is asked for that turn. A conversation
    that the template cannot render comes back without tokens.
    """
    if turns not in ("all", "last"):
        raise ValueError(f"turns is 'all' or 'last', not {turns!r}")
    if max_length < 1:
        raise ValueError(f"max_length is at least 1, not {max_length}")
    limit = min(max_length, loaded.context)
    return [_encode(loaded, sample, limit, turns) for sample in samples]


def _encode(loaded: Loaded, sample: Sample, limit: int, turns: str) -> TokenSample:
    try:
        rendered = loaded.chat.conversation(sample.messages)
    except ChatError:
        rendered = Rendered("", "", (), ())
    encoded, counts = loaded.chat.encoder.encode_cut(rendered.text, rendered.cuts, rendered.mark)
    ids = np.asarray(encoded.ids[:limit], dtype=np.int64)
    spans = np.asarray(encoded.spans[:limit], dtype=np.int32).reshape(-1, 2)
    response = np.zeros(len(ids), dtype=np.bool_)
    answers = list(zip(rendered.answers, counts, strict=True))
    if turns == "last":
        last = len(sample.messages) - 1
        answers = [pair for pair in answers if pair[0].message == last]
    order = np.arange(len(ids))
    for answer, first in answers:
        response |= (order >= first) & (spans[:, 0] < _plain(rendered, answer.end))
    ends = np.asarray([_plain(rendered, end) for end in rendered.ends], dtype=np.int64)
    turn = np.minimum(np.searchsorted(ends, spans[:, 0], side="right"), max(0, len(ends) - 1))
    weights = np.where(response, np.float32(sample.weight), np.float32(0))
    return TokenSample(
        id=sample.id,
        ids=ids,
        response=response,
        turn=turn.astype(np.int16),
        spans=spans,
        weights=weights.astype(np.float32),
        text=rendered.text.replace(rendered.mark, "") if rendered.mark else rendered.text,
    )


def _plain(rendered: Rendered, at: int) -> int:
    """An offset into the text without its marks."""
    return at - rendered.text.count(rendered.mark, 0, at) if rendered.mark else at
