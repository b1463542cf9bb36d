"""Formats of whole conversations, in which no token can be left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from nfilter import JSON, Exported, Message, Sample, StageConfig

FILE = "train.jsonl"


def conversation(sample: Sample) -> dict[str, JSON]:
    """A row that holds a whole conversation."""
    return {"messages": [turn(message) for message in sample.messages]}


def turn(message: Message) -> dict[str, JSON]:
    """One message as chat templates take it."""
    return {"role": message.role, "content": message.content}


def write_conversations(run: Exported, out: Path) -> list[str]:
    """Write train.jsonl with a conversation per row; what it holds, and what it cannot hold."""
    with (out / FILE).open("w", encoding="utf-8") as file:
        for sample in run.samples:
            file.write(json.dumps(conversation(sample), ensure_ascii=False) + "\n")
    return [f"{FILE}: {len(run.samples)} conversations", *masks_lost(run), *weights_lost(run)]


def masks_lost(run: Exported) -> list[str]:
    """What a format without token masks does not say of this run."""
    masked = sum(int((s.response & (s.weights == 0)).sum()) for s in run.tokens)
    if not masked:
        return []
    return [
        f"{masked} response tokens are out of the loss in this run, and this format cannot say so: they are in it"
    ]


def weights_lost(run: Exported) -> list[str]:
    """What a format without weights does not say of this run."""
    weighed = sum(not np.isclose(sample.weight, 1.0) for sample in run.samples)
    return (
        [f"{weighed} rows have a weight other than 1, which this format cannot hold"]
        if weighed
        else []
    )


class NoSettings(StageConfig):
    """No settings."""


class Messages:
    """For any program: train.jsonl with ``id``, ``messages`` (``role`` and ``content``) and ``weight``, a row per sample.

    Needs no tokens and no tokenizer. Its rows carry no token masks: what is out of the loss here is in it there.
    """

    name: ClassVar[str] = "messages"
    Config: ClassVar[type[StageConfig]] = NoSettings
    takes_rows: ClassVar[bool] = True

    def __init__(self, config: NoSettings) -> None:
        del config

    def export(self, run: Exported, out: Path) -> list[str]:
        """Write train.jsonl."""
        with (out / FILE).open("w", encoding="utf-8") as file:
            for sample in run.samples:
                row = {"id": sample.id, **conversation(sample), "weight": sample.weight}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        return [f"{FILE}: {len(run.samples)} conversations", *masks_lost(run)]


class LlamaFactoryConfig(StageConfig):
    """``dataset``: the name under which dataset_info.json lists the rows."""

    dataset: str = Field(default="nfilter", min_length=1)


class LlamaFactory:
    """For LLaMA-Factory: train.jsonl with ``messages``, and the dataset_info.json that describes it.

    Point ``dataset_dir`` at the folder. Its rows carry no token masks: what is out of the loss here is in it there.
    """

    name: ClassVar[str] = "llamafactory"
    Config: ClassVar[type[StageConfig]] = LlamaFactoryConfig
    takes_rows: ClassVar[bool] = True

    def __init__(self, config: LlamaFactoryConfig) -> None:
        self.config = config

    def export(self, run: Exported, out: Path) -> list[str]:
        """Write train.jsonl and dataset_info.json."""
        said = write_conversations(run, out)
        described = {
            self.config.dataset: {
                "file_name": FILE,
                "formatting": "sharegpt",
                "columns": {"messages": "messages"},
                "tags": {
                    "role_tag": "role", "content_tag": "content", "user_tag": "user",
                    "assistant_tag": "assistant", "system_tag": "system",
                },
            }
        }  # fmt: skip
        info = json.dumps(described, indent=2, ensure_ascii=False)
        (out / "dataset_info.json").write_text(info + "\n", encoding="utf-8")
        return [said[0], "dataset_info.json", *said[1:]]
