"""Export formats of whole conversations, without a loss mask per token."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from nfilter import Exported, StageConfig
from nfilter_export import trainer_configs
from nfilter_export.turns import conversation, sharegpt, weighted

FILE = "train.jsonl"


def write_conversations(run: Exported, out: Path, *, flags: bool = False) -> list[str]:
    """Write train.jsonl with one conversation per row; return its summary and what the format loses."""
    write_rows(out, (conversation(sample, flags=flags) for sample in run.samples))
    return [
        f"{FILE}: {len(run.samples)} conversations",
        *lost_masks(run),
        *lost_weights(run, flags=flags),
    ]


def write_rows(out: Path, rows: Iterable[Any]) -> int:
    """Write train.jsonl; return the number of rows."""
    count = 0
    with (out / FILE).open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


def lost_masks(run: Exported) -> list[str]:
    """Return a warning if the run masks tokens, for a format without a token mask."""
    masked = sum(int((s.response & (s.weights == 0)).sum()) for s in run.tokens)
    if not masked:
        return []
    return [
        f"{masked} response tokens are masked in this run; this format has no token mask, so they are in the loss"
    ]


def lost_rejected(run: Exported) -> list[str]:
    """Return a warning if rows are preference pairs, for a format of single responses."""
    pairs = sum(sample.rejected is not None for sample in run.samples)
    if not pairs:
        return []
    return [
        f"{pairs} rows are preference pairs, whose rejected responses this format cannot represent; the format trl_dpo has both"
    ]


def lost_weights(run: Exported, *, flags: bool = False) -> list[str]:
    """Return warnings about weights that the format loses; ``flags``: it has a 0/1 flag per turn."""
    weighted = sum(not np.isclose(sample.weight, 1.0) for sample in run.samples)
    supported = (0.0, 1.0) if flags else (1.0,)
    turns = sum(
        message.role == "assistant" and message.weight not in supported
        for sample in run.samples
        for message in sample.messages
    )
    warnings = lost_rejected(run)
    if weighted:
        warnings.append(
            f"{weighted} rows have a weight other than 1, which this format cannot represent"
        )
    if turns:
        warnings.append(
            f"{turns} assistant turns have a weight other than {' and '.join(f'{w:g}' for w in supported)}, which this "
            "format cannot represent: they count as 1"
        )
    return warnings


class NoSettings(StageConfig):
    """No settings."""


class Messages:
    """Generic format: train.jsonl with ``id``, ``messages``, optional ``tools``, and ``weight``, one row per sample.

    A turn has ``role`` and ``content``, and optionally ``reasoning_content``, ``tool_calls``, ``name``,
    ``tool_call_id`` and ``weight``. Needs no tokenizer. The token mask of the run is lost.
    """

    name: ClassVar[str] = "messages"
    Config: ClassVar[type[StageConfig]] = NoSettings
    takes_rows: ClassVar[bool] = True

    def __init__(self, config: NoSettings) -> None: ...

    def export(self, run: Exported, out: Path) -> list[str]:
        rows = ({"id": s.id, **conversation(s), "weight": s.weight} for s in run.samples)
        write_rows(out, rows)
        return [f"{FILE}: {len(run.samples)} conversations", *lost_masks(run), *lost_rejected(run)]


class LlamaFactoryConfig(StageConfig):
    """``dataset``: name of the dataset in dataset_info.json."""

    dataset: str = Field(
        default="nfilter", min_length=1, description="The name of the dataset in dataset_info.json."
    )


class LlamaFactory:
    """Format for LLaMA-Factory: train.jsonl with ``messages``, dataset_info.json, and train.yaml.

    train.yaml names no template: LLaMA-Factory reads that of the tokenizer then. The token mask of the run is lost.
    """

    name: ClassVar[str] = "llamafactory"
    Config: ClassVar[type[StageConfig]] = LlamaFactoryConfig
    takes_rows: ClassVar[bool] = True

    def __init__(self, config: LlamaFactoryConfig) -> None:
        self.config = config

    def export(self, run: Exported, out: Path) -> list[str]:
        unsupported: Counter[str] = Counter()
        count = 0
        with (out / FILE).open("w", encoding="utf-8") as file:
            for sample in run.samples:
                row = sharegpt(sample)
                if isinstance(row, str):
                    unsupported[row] += 1
                    continue
                count += 1
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        description = {
            self.config.dataset: {
                "file_name": FILE,
                "formatting": "sharegpt",
                "columns": {"messages": "messages", "system": "system", "tools": "tools"},
                "tags": {
                    "role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
                    "observation_tag": "observation", "function_tag": "function_call", "system_tag": "system",
                },
            }
        }  # fmt: skip
        info = json.dumps(description, indent=2, ensure_ascii=False)
        (out / "dataset_info.json").write_text(info + "\n", encoding="utf-8")
        summary = [f"{FILE}: {count} conversations", "dataset_info.json"]
        if run.fine_tune is not None:
            config = trainer_configs.llamafactory(run.fine_tune, count, self.config.dataset)
            command = "llamafactory-cli train train.yaml"
            summary += trainer_configs.write(out, run.fine_tune, config, command)
        summary += [
            f"{number} rows are skipped: they contain {reason}, which this format does not support"
            for reason, number in unsupported.items()
        ]
        return [*summary, *lost_masks(run), *lost_weights(run)]


class Swift:
    """Format for ms-swift: train.jsonl with ``messages``, and train.yaml.

    An assistant turn has the product of its weight and its row's as ``loss_scale``; at 0 it has ``loss: false``. The token mask of
    the run is lost.
    """

    name: ClassVar[str] = "swift"
    Config: ClassVar[type[StageConfig]] = NoSettings
    takes_rows: ClassVar[bool] = True

    def __init__(self, config: NoSettings) -> None: ...

    def export(self, run: Exported, out: Path) -> list[str]:
        count = write_rows(out, map(weighted, run.samples))
        summary = [f"{FILE}: {count} conversations"]
        if run.fine_tune is not None:
            turns = ((s.weight, message) for s in run.samples for message in s.messages)
            fractions = any(m.role == "assistant" and m.weight * w not in (0, 1) for w, m in turns)
            config = trainer_configs.swift(run.fine_tune, count, fractions=fractions)
            summary += trainer_configs.write(out, run.fine_tune, config, "swift sft train.yaml")
        return [*summary, *lost_masks(run), *lost_rejected(run)]
