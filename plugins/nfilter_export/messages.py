"""Formats of whole conversations, in which no token can be left out."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from nfilter import Exported, StageConfig
from nfilter_export.turns import conversation, sharegpt

FILE = "train.jsonl"


def write_conversations(run: Exported, out: Path, *, flags: bool = False) -> list[str]:
    """Write train.jsonl with a conversation per row; what it holds, and what it cannot hold."""
    with (out / FILE).open("w", encoding="utf-8") as file:
        for sample in run.samples:
            file.write(json.dumps(conversation(sample, flags=flags), ensure_ascii=False) + "\n")
    return [
        f"{FILE}: {len(run.samples)} conversations",
        *masks_lost(run),
        *weights_lost(run, flags=flags),
    ]


def masks_lost(run: Exported) -> list[str]:
    """What a format without token masks does not say of this run."""
    masked = sum(int((s.response & (s.weights == 0)).sum()) for s in run.tokens)
    if not masked:
        return []
    return [
        f"{masked} response tokens are out of the loss in this run, and this format cannot say so: they are in it"
    ]


def weights_lost(run: Exported, *, flags: bool = False) -> list[str]:
    """What a format without weights does not say of this run; ``flags``: it says which turns count."""
    weighed = sum(not np.isclose(sample.weight, 1.0) for sample in run.samples)
    held = (0.0, 1.0) if flags else (1.0,)
    turns = sum(
        message.role == "assistant" and message.weight not in held
        for sample in run.samples
        for message in sample.messages
    )
    said = []
    if weighed:
        said.append(f"{weighed} rows have a weight other than 1, which this format cannot hold")
    if turns:
        said.append(
            f"{turns} turns of an assistant have a weight other than {' and '.join(f'{w:g}' for w in held)}, which this "
            "format cannot hold: they count in full"
        )
    return said


class NoSettings(StageConfig):
    """No settings."""


class Messages:
    """For any program: train.jsonl with ``id``, ``messages``, ``tools`` where there are any, and ``weight``, a row per sample.

    A turn has ``role`` and ``content``, and where it holds them ``reasoning_content``, ``tool_calls``, ``name``,
    ``tool_call_id`` and a ``weight`` of its own. Needs no tokens and no tokenizer. Its rows carry no token masks: what is out of the loss here is in it there.
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
        lost: Counter[str] = Counter()
        count = 0
        with (out / FILE).open("w", encoding="utf-8") as file:
            for sample in run.samples:
                row = sharegpt(sample)
                if isinstance(row, str):
                    lost[row] += 1
                    continue
                count += 1
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        described = {
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
        info = json.dumps(described, indent=2, ensure_ascii=False)
        (out / "dataset_info.json").write_text(info + "\n", encoding="utf-8")
        said = [f"{FILE}: {count} conversations", "dataset_info.json"]
        said += [
            f"{number} rows are left out: they hold {what}, for which this format has no place"
            for what, number in lost.items()
        ]
        return [*said, *masks_lost(run), *weights_lost(run)]
