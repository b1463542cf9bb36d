"""inspect-ai without an eval: its model in asyncio.gather, with its cache, from which a second run resumes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from asking import main
from inspect_ai.model import GenerateConfig, get_model


def run(url: str, questions: list[str], level: int, folder: Path) -> Callable[[], dict[str, str]]:
    os.environ["INSPECT_CACHE_DIR"] = str(folder)
    config = GenerateConfig(max_connections=level, max_retries=0, max_tokens=64, temperature=0.0)

    async def ask() -> list[str]:
        model = get_model("openai-api/bench/test", base_url=url, api_key="none", config=config)
        replies = await asyncio.gather(*(model.generate(text, cache=True) for text in questions))
        return [reply.completion for reply in replies]

    found = asyncio.run(ask())
    return lambda: dict(zip(questions, found, strict=True))


if __name__ == "__main__":
    main(run)
