"""bespokelabs-curator: an ``LLM`` over an OpenAI-compatible server, with its response cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

os.environ.update(
    TELEMETRY_ENABLED="false",
    CURATOR_DISABLE_RICH_DISPLAY="1",
    HF_HUB_OFFLINE="1",
    LITELLM_LOCAL_MODEL_COST_MAP="True",
)
os.environ.pop("CURATOR_VIEWER", None)

import litellm

# litellm ships the tokenizer that curator would otherwise download at its first call.
os.environ["TIKTOKEN_CACHE_DIR"] = str(
    Path(litellm.__file__).parent / "litellm_core_utils" / "tokenizers"
)

from asking import main
from bespokelabs import curator
from datasets import Dataset

UNLIMITED = 10**9
"""Requests and tokens per minute. Its defaults are 200 and 100,000."""


class Asker(curator.LLM):
    def prompt(self, row: dict[str, str]) -> str:
        return row["question"]

    def parse(self, row: dict[str, str], response: str) -> dict[str, str]:
        return {"question": row["question"], "answer": response}


def run(url: str, questions: list[str], level: int, folder: Path) -> Callable[[], dict[str, str]]:
    asker = Asker(
        model_name="test",
        backend="openai",
        generation_params={"max_tokens": 64, "temperature": 0.0},
        backend_params={
            "base_url": url,
            "api_key": "none",
            "max_concurrent_requests": level,
            "max_requests_per_minute": UNLIMITED,
            "max_tokens_per_minute": UNLIMITED,
            "max_retries": 0,
        },
    )
    found = asker(Dataset.from_dict({"question": questions}), working_dir=str(folder)).dataset
    return lambda: dict(zip(found["question"], found["answer"], strict=True))


if __name__ == "__main__":
    main(run)
