"""Formats of whole conversations, in which no token can be left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from nfilter import Exported, StageConfig

FILE = "train.jsonl"


class LlamaFactoryConfig(StageConfig):
    """``dataset``: the name under which dataset_info.json lists the rows."""

    dataset: str = Field(default="nfilter", min_length=1)


class LlamaFactory:
    """For LLaMA-Factory: train.jsonl with ``messages``, and the dataset_info.json that describes it.

    Point ``dataset_dir`` at the folder. Its rows carry no token masks: what is out of the loss here is in it there.
    """

    name: ClassVar[str] = "llamafactory"
    Config: ClassVar[type[StageConfig]] = LlamaFactoryConfig

    def __init__(self, config: LlamaFactoryConfig) -> None:
        self.config = config

    def export(self, run: Exported, out: Path) -> list[str]:
        """Write train.jsonl and dataset_info.json."""
        masked = sum(int((s.response & (s.weights == 0)).sum()) for s in run.tokens)
        count = weighed = 0
        with (out / FILE).open("w", encoding="utf-8") as file:
            for sample in run.samples:
                turns = [{"role": m.role, "content": m.content} for m in sample.messages]
                file.write(json.dumps({"messages": turns}, ensure_ascii=False) + "\n")
                count += 1
                weighed += not np.isclose(sample.weight, 1.0)
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
        said = [f"{FILE}: {count} conversations", "dataset_info.json"]
        if masked:
            said.append(
                f"{masked} response tokens are out of the loss in this run, and this format cannot say so: they are in it"
            )
        if weighed:
            said.append(f"{weighed} rows have a weight other than 1, which this format cannot hold")
        return said
