"""distilabel: a pipeline of a generator and ``TextGeneration``, with its cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

os.environ.update(
    DISTILABEL_LOG_LEVEL="WARNING",
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_DATASETS_DISABLE_PROGRESS_BARS="1",
)

from asking import main
from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import TextGeneration


def run(url: str, questions: list[str], level: int, folder: Path) -> Callable[[], dict[str, str]]:
    # It asks a batch of rows at once and waits for all of them: the size of a batch is its concurrency.
    with Pipeline(name="asking", cache_dir=folder) as pipeline:
        rows = LoadDataFromDicts(
            name="rows", data=[{"instruction": text} for text in questions], batch_size=level
        )
        asker = TextGeneration(
            name="asker",
            llm=OpenAILLM(
                model="test",
                base_url=url,
                api_key="none",
                max_retries=0,
                generation_kwargs={"max_new_tokens": 64, "temperature": 0.0},
            ),
            input_batch_size=level,
        )
        rows >> asker
    found = pipeline.run(use_cache=True)["default"]["train"]
    return lambda: dict(zip(found["instruction"], found["generation"], strict=True))


if __name__ == "__main__":
    main(run)
