"""Export formats with a loss mask per token."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from nfilter import JSON, Exported, StageConfig, TokenSample
from nfilter_export import trainer_configs
from nfilter_export.conversation_formats import FILE, NoSettings, write_conversations, write_rows

TOKENIZER = "tokenizer_digest.json"
"""File with the SHA-256 of the tokenizer and of the chat template that produced the ids; null if unknown."""


class Trl:
    """Format for TRL's SFTTrainer: rows of ``input_ids`` and ``labels``; -100 excludes a token from the loss.

    train.yaml has the model and the settings of the run for ``trl sft``. Token weights become 0 or 1. Without tokens, the rows are
    ``messages``, which the trainer tokenizes with the chat template of its model.
    """

    name: ClassVar[str] = "trl"
    Config: ClassVar[type[StageConfig]] = NoSettings
    takes_rows: ClassVar[bool] = True

    def __init__(self, config: NoSettings) -> None: ...

    def export(self, run: Exported, out: Path) -> list[str]:
        """Write train.jsonl, train.yaml if the recipe trains, and tokenizer_digest.json if the run has tokens."""
        config = self._config(run, out)
        if not run.encoded:
            return [
                *write_conversations(run, out),
                *config,
                "no token masks, as the recipe has no token stages: with SFTConfig(assistant_only_loss=True) the loss is computed on assistant turns only",
            ]
        soft = _SoftWeights()
        rows = (
            {"input_ids": sample.ids.tolist(), "labels": _labels(sample)}
            for sample in soft.count(run.tokens)
        )
        count = write_rows(out, rows)
        return [
            f"{FILE}: {count} rows of input_ids and labels",
            *config,
            _write_tokenizer_digest(run, out),
            *soft.warnings(),
        ]

    def _config(self, run: Exported, out: Path) -> list[str]:
        tune = run.fine_tune
        if tune is None:
            return []
        value = trainer_configs.trl(tune, len(run.samples), encoded=run.encoded)
        return trainer_configs.write(out, tune, value, "trl sft --config train.yaml")


class Axolotl:
    """Format for axolotl's ``type: input_output``: rows of text ``segments``; ``label`` includes one in the loss.

    axolotl tokenizes each segment separately, so ids can differ where a segment ends within a word. Set
    ``train_on_inputs: false`` and no chat template: the segments include its control tokens. Without tokens, the rows
    are ``messages``, for ``type: chat_template``.
    """

    name: ClassVar[str] = "axolotl"
    Config: ClassVar[type[StageConfig]] = NoSettings
    takes_rows: ClassVar[bool] = True

    def __init__(self, config: NoSettings) -> None: ...

    def export(self, run: Exported, out: Path) -> list[str]:
        """Write train.jsonl, and train.yaml if the recipe trains."""
        flags = not run.encoded and any(m.weight != 1 for s in run.samples for m in s.messages)
        config = self._config(run, out, flags=flags)
        if not run.encoded:
            field = "message_field_training: train, and " if flags else ""
            return [
                *write_conversations(run, out, flags=flags),
                *config,
                f"no token masks, as the recipe has no token stages: set {field}type: chat_template, which computes the loss on assistant turns",
            ]
        soft = _SoftWeights()
        rows = ({"segments": _segments(sample)} for sample in soft.count(run.tokens))
        count = write_rows(out, rows)
        return [f"{FILE}: {count} rows of segments", *config, *soft.warnings()]

    def _config(self, run: Exported, out: Path, *, flags: bool) -> list[str]:
        tune = run.fine_tune
        if tune is None:
            return []
        value = trainer_configs.axolotl(tune, len(run.samples), encoded=run.encoded, flags=flags)
        return trainer_configs.write(out, tune, value, "axolotl train train.yaml")


class Spans:
    """Generic format: the rendered text, and the span, id, weight, scores and reasons of each response token.

    A row is {id, text, tokens: [{start, end, id, weight, scores, reasons}]}; ``start`` and ``end`` are character
    offsets into ``text``. Undefined scores are omitted; reasons are stage names.
    """

    name: ClassVar[str] = "spans"
    Config: ClassVar[type[StageConfig]] = NoSettings

    def __init__(self, config: NoSettings) -> None: ...

    def export(self, run: Exported, out: Path) -> list[str]:
        """Write train.jsonl and tokenizer_digest.json."""
        reasons = run.reasons
        rows = (
            {"id": s.id, "text": s.text, "tokens": [_token_row(s, int(t), reasons) for t in np.flatnonzero(s.response)]}
            for s in run.tokens
        )  # fmt: skip
        count = write_rows(out, rows)
        return [f"{FILE}: {count} rows of text and token spans", _write_tokenizer_digest(run, out)]


class _SoftWeights:
    """Counter of token weights other than 0 and 1, which a label mask cannot represent."""

    def __init__(self) -> None:
        self._tokens = 0

    def count(self, samples: Iterable[TokenSample]) -> Iterator[TokenSample]:
        for sample in samples:
            self._tokens += int(((sample.weights != 0) & (sample.weights != 1)).sum())
            yield sample

    def warnings(self) -> list[str]:
        if not self._tokens:
            return []
        return [
            f"{self._tokens} tokens have a weight other than 0 and 1, which this format cannot represent: they count as 1"
        ]


def _labels(sample: TokenSample) -> list[int]:
    labels: list[int] = np.where(sample.weights != 0, sample.ids, -100).tolist()
    return labels


def _segments(sample: TokenSample) -> list[JSON]:
    """Split the whole text where the loss mask changes."""
    pieces: list[tuple[bool, str]] = []
    position = 0
    for (start, end), weight in zip(sample.spans.tolist(), sample.weights.tolist(), strict=True):
        if start > position:  # characters outside every token's span
            pieces.append((bool(pieces) and pieces[-1][0], sample.text[position:start]))
        pieces.append((weight != 0, sample.text[max(start, position) : end]))
        position = max(position, end)
    return [
        {"label": label, "text": text}
        for label, group in groupby(pieces, key=lambda piece: piece[0])
        if (text := "".join(piece for _, piece in group))
    ]


def _token_row(sample: TokenSample, t: int, names: Any) -> dict[str, JSON]:
    bits = int(sample.reasons[t])
    scores: dict[str, JSON] = {
        name: float(values[t]) for name, values in sample.scores.items() if not np.isnan(values[t])
    }
    return {
        "start": int(sample.spans[t, 0]),
        "end": int(sample.spans[t, 1]),
        "id": int(sample.ids[t]),
        "weight": float(sample.weights[t]),
        "scores": scores,
        "reasons": [name for bit, name in enumerate(names) if bits >> bit & 1],
    }


def _write_tokenizer_digest(run: Exported, out: Path) -> str:
    digest = run.tokenizer
    value = {"tokenizer": digest and digest.tokenizer, "template": digest and digest.template}
    (out / TOKENIZER).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    if digest is None:
        return f"{TOKENIZER}: null, because the model's backend reports no tokenizer digest"
    return f"{TOKENIZER}: SHA-256 of the tokenizer that produced the ids, and of its chat template"
