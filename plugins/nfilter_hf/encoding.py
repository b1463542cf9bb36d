"""Encode conversations as token samples: ids and the response mask."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from nfilter import IntArray, ModelError, Sample, TokenizerDigest, TokenSample
from nfilter_hf.loading import Text
from nfilter_hf.templates.chat import ChatError, Rendered


def encode(
    text: Text, samples: Sequence[Sample], *, max_length: int, turns: str
) -> list[TokenSample]:
    """Return token samples of at most ``max_length`` tokens and at most the model's context, truncated on the right.

    ``response`` marks every assistant turn (``turns: all``) or the last one, with its end-of-turn token, except turns of weight
    0; weights are the sample's times the turn's. The tokens before a response are exactly those of the prompt for that turn. A
    conversation that the template rejects has no tokens, and its remark is the reason.

    Raises:
        ModelError: for a token that the model has no embedding for.
        ValueError: for other ``turns``, or a ``max_length`` below 1.
    """
    if turns not in ("all", "last"):
        raise ValueError(f"turns is 'all' or 'last', not {turns!r}")
    if max_length < 1:
        raise ValueError(f"max_length is at least 1, not {max_length}")
    limit = min(max_length, text.context)
    return [_encode(text, sample, limit, turns) for sample in samples]


def _encode(text: Text, sample: Sample, limit: int, turns: str) -> TokenSample:
    try:
        rendered = text.chat.conversation(sample.messages, sample.tools)
    except ChatError as error:
        rendered = Rendered("", "", (), (), (str(error),))
    encoded, counts = text.chat.encoder.encode_cut(rendered.text, rendered.cuts, rendered.mark)
    ids = np.asarray(encoded.ids, dtype=np.int64)
    if len(ids) and ids.max() >= text.vocabulary:
        raise ModelError(
            f"sample {sample.id!r}: the tokenizer writes token {int(ids.max())}, and the model has embeddings for "
            f"{text.vocabulary}: its folder has the tokenizer of another model; copy the checkpoint again"
        )
    spans = np.asarray(encoded.spans, dtype=np.int32).reshape(-1, 2)
    begins = dict(zip(rendered.cuts, counts, strict=True))
    response = np.zeros(len(ids), dtype=np.bool_)
    weights = np.zeros(len(ids), dtype=np.float32)
    order = np.arange(len(ids))
    for answer in rendered.answers:
        message = sample.messages[answer.message]
        if message.weight == 0 or (turns == "last" and answer.message != len(sample.messages) - 1):
            continue
        mine = (order >= begins[answer.start]) & (spans[:, 0] < _plain(rendered, answer.end))
        response |= mine
        weights[mine] = sample.weight * message.weight
    ends = np.asarray([_plain(rendered, end) for end in rendered.ends], dtype=np.int64)
    turn = np.minimum(np.searchsorted(ends, spans[:, 0], side="right"), max(0, len(ends) - 1))
    return TokenSample(
        id=sample.id,
        ids=ids[:limit],
        response=response[:limit],
        turn=turn[:limit].astype(np.int16),
        spans=spans[:limit],
        weights=weights[:limit],
        text=rendered.text.replace(rendered.mark, "") if rendered.mark else rendered.text,
        cut=response[limit:],
        remarks=rendered.remarks,
    )


def decode(text: Text, ids: Sequence[IntArray]) -> list[str]:
    """Return the text of each list of ids, including control tokens and white space."""
    texts: list[str] = text.tokenizer.batch_decode(
        [part.tolist() for part in ids],
        skip_special_tokens=False,
        clean_up_tokenization_spaces=False,
    )
    return texts


def tokenizer_digest(text: Text) -> TokenizerDigest:
    """Return the SHA-256 of the serialised tokenizer, and of the chat templates with the special tokens."""
    state = json.loads(text.tokenizer.backend_tokenizer.to_str())
    # Truncation and padding of the last call are state of the object, not of the tokenizer.
    for passing in ("truncation", "padding"):
        state.pop(passing, None)
    named = {name: str(token) for name, token in text.tokenizer.special_tokens_map.items()}
    # Most tokenizers have one template for both.
    templates = dict.fromkeys((text.chat.template, text.chat.with_tools.template))
    return TokenizerDigest(_sha256(state), _sha256([*templates, named]))


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _plain(rendered: Rendered, at: int) -> int:
    """The offset ``at`` in the text without its marks."""
    return at - rendered.text.count(rendered.mark, 0, at) if rendered.mark else at
