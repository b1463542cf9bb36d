"""Conversations to token samples: ids, and which of them an assistant wrote."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from nfilter import IntArray, ModelError, Sample, TokenizerDigest, TokenSample
from nfilter_hf.chat import ChatError, Rendered
from nfilter_hf.loading import Text


def encode(
    text: Text, samples: Sequence[Sample], *, max_length: int, turns: str
) -> list[TokenSample]:
    """Token samples of at most ``max_length`` tokens, or of the model's context, cut on the right.

    ``response`` marks each assistant turn (``turns: all``) or the last one, with its end-of-turn token, and none of a
    turn whose weight is 0; weights are the sample's times the turn's. What comes
    before a response is, token for token, what the model is shown when it is asked for that turn. A conversation
    that the template cannot render comes back without tokens. Raises ModelError for a token that the model has no
    embedding for.
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
            f"{text.vocabulary}: its folder holds the tokenizer of another model; copy the checkpoint again"
        )
    spans = np.asarray(encoded.spans, dtype=np.int32).reshape(-1, 2)
    begins = dict(zip(rendered.cuts, counts, strict=True))
    response = np.zeros(len(ids), dtype=np.bool_)
    weights = np.zeros(len(ids), dtype=np.float32)
    order = np.arange(len(ids))
    for answer in rendered.answers:
        said = sample.messages[answer.message]
        if said.weight == 0 or (turns == "last" and answer.message != len(sample.messages) - 1):
            continue
        mine = (order >= begins[answer.start]) & (spans[:, 0] < _plain(rendered, answer.end))
        response |= mine
        weights[mine] = sample.weight * said.weight
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
    """The text of each list of ids, control tokens and all blanks included."""
    found: list[str] = text.tokenizer.batch_decode(
        [part.tolist() for part in ids],
        skip_special_tokens=False,
        clean_up_tokenization_spaces=False,
    )
    return found


def tokenizer_digest(text: Text) -> TokenizerDigest:
    """SHA-256 of the tokenizer's own serialisation, and of the chat template with the tokens that it names."""
    state = json.loads(text.tokenizer.backend_tokenizer.to_str())
    # How the last call cut and padded is state of the object, not of the tokenizer.
    for passing in ("truncation", "padding"):
        state.pop(passing, None)
    named = {name: str(token) for name, token in text.tokenizer.special_tokens_map.items()}
    # Most tokenizers have one template for all.
    templates = dict.fromkeys((text.chat.template, text.chat.with_tools.template))
    return TokenizerDigest(_sha256(state), _sha256([*templates, named]))


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _plain(rendered: Rendered, at: int) -> int:
    """An offset into the text without its marks."""
    return at - rendered.text.count(rendered.mark, 0, at) if rendered.mark else at
