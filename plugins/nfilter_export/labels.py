"""Formats that say of every token whether it is in the loss."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from nfilter import JSON, Exported, StageConfig, TokenSample
from nfilter_export.messages import FILE, NoSettings, write_conversations

TOKENIZER = "tokenizer_digest.json"
"""What made the ids: SHA-256 of the tokenizer and of the chat template, each null where it is not known."""


class Trl:
    """For TRL's SFTTrainer: rows of ``input_ids`` and ``labels``, which is -100 where a token is out of the loss.

    Load it with ``datasets.load_dataset("json", data_files=".../train.jsonl")``; the trainer takes such rows as they
    are. Labels hold no weights other than 0 and 1. Of a run without tokens, the rows are ``messages``, which the trainer
    tokenises with its own model's template.
    """

    name: ClassVar[str] = "trl"
    Config: ClassVar[type[StageConfig]] = NoSettings
    takes_rows: ClassVar[bool] = True

    def __init__(self, config: NoSettings) -> None:
        del config

    def export(self, run: Exported, out: Path) -> list[str]:
        """Write train.jsonl and, where there are tokens, tokenizer_digest.json."""
        if not run.encoded:
            return [
                *write_conversations(run, out),
                "no tokens: with SFTConfig(assistant_only_loss=True) the loss is over the assistant's turns alone",
            ]
        soft = _Soft()
        rows = (
            {"input_ids": sample.ids.tolist(), "labels": _labels(sample)}
            for sample in soft.seen(run.tokens)
        )
        count = _write(out / FILE, rows)
        return [f"{FILE}: {count} rows of input_ids and labels", _tokenizer(run, out), *soft.said()]


class Axolotl:
    """For axolotl, ``type: input_output``: rows of ``segments``, texts that are in the loss (``label``) or not.

    axolotl tokenises the segments itself, and may do so differently where a segment ends inside of a word. Set
    ``train_on_inputs: false`` and no chat template: the segments hold its markers. Of a run without tokens, the rows are
    ``messages``, for ``type: chat_template``.
    """

    name: ClassVar[str] = "axolotl"
    Config: ClassVar[type[StageConfig]] = NoSettings
    takes_rows: ClassVar[bool] = True

    def __init__(self, config: NoSettings) -> None:
        del config

    def export(self, run: Exported, out: Path) -> list[str]:
        """Write train.jsonl."""
        if not run.encoded:
            flags = any(m.weight != 1 for sample in run.samples for m in sample.messages)
            field = "message_field_training: train, and " if flags else ""
            return [
                *write_conversations(run, out, flags=flags),
                f"no tokens: set {field}type: chat_template, which has the loss over the assistant's turns",
            ]
        soft = _Soft()
        rows = ({"segments": _segments(sample)} for sample in soft.seen(run.tokens))
        count = _write(out / FILE, rows)
        return [f"{FILE}: {count} rows of segments", *soft.said()]


class Spans:
    """For any program: rendered text, and for each response token its characters, id, weight, scores and reasons.

    A row is {id, text, tokens: [{start, end, id, weight, scores, reasons}]}; ``start`` and ``end`` count characters of
    ``text``. Undefined scores are left out, reasons are the names of stages.
    """

    name: ClassVar[str] = "spans"
    Config: ClassVar[type[StageConfig]] = NoSettings

    def __init__(self, config: NoSettings) -> None:
        del config

    def export(self, run: Exported, out: Path) -> list[str]:
        """Write train.jsonl and tokenizer_digest.json."""
        reasons = run.reasons
        rows = (
            {"id": s.id, "text": s.text, "tokens": [_token(s, int(t), reasons) for t in np.flatnonzero(s.response)]}
            for s in run.tokens
        )  # fmt: skip
        count = _write(out / FILE, rows)
        return [f"{FILE}: {count} rows of text and token spans", _tokenizer(run, out)]


class _Soft:
    """Counts the weights that labels cannot hold."""

    def __init__(self) -> None:
        self._tokens = 0

    def seen(self, samples: Iterable[TokenSample]) -> Iterator[TokenSample]:
        for sample in samples:
            self._tokens += int(((sample.weights != 0) & (sample.weights != 1)).sum())
            yield sample

    def said(self) -> list[str]:
        if not self._tokens:
            return []
        return [
            f"{self._tokens} tokens have a weight other than 0 and 1, which this format cannot hold: they count in full"
        ]


def _labels(sample: TokenSample) -> list[int]:
    labels: list[int] = np.where(sample.weights != 0, sample.ids, -100).tolist()
    return labels


def _segments(sample: TokenSample) -> list[JSON]:
    """The text in pieces, a new one wherever the loss begins or ends; every character is in one of them."""
    pieces: list[tuple[bool, str]] = []
    done = 0
    for (start, end), weight in zip(sample.spans.tolist(), sample.weights.tolist(), strict=True):
        if start > done:  # characters that no token stands for
            pieces.append((bool(pieces) and pieces[-1][0], sample.text[done:start]))
        pieces.append((weight != 0, sample.text[max(start, done) : end]))
        done = max(done, end)
    return [
        {"label": label, "text": whole}
        for label, group in groupby(pieces, key=lambda piece: piece[0])
        if (whole := "".join(piece for _, piece in group))
    ]


def _token(sample: TokenSample, t: int, names: Any) -> dict[str, JSON]:
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


def _tokenizer(run: Exported, out: Path) -> str:
    made = run.tokenizer
    value = {"tokenizer": made and made.tokenizer, "template": made and made.template}
    (out / TOKENIZER).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    if made is None:
        return (
            f"{TOKENIZER}: null, as the model's backend does not tell which tokenizer made the ids"
        )
    return f"{TOKENIZER}: SHA-256 of the tokenizer that made the ids, and of its chat template"


def _write(file: Path, rows: Iterable[Any]) -> int:
    count = 0
    with file.open("w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count
