"""inspect-ai: an eval set of one task without a scorer, which resumes from its log."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

for variable in ("INSPECT_TELEMETRY", "INSPECT_API_KEY_OVERRIDE", "INSPECT_REQUIRED_HOOKS"):
    os.environ.pop(variable, None)

from asking import main  # noqa: E402
from inspect_ai import Task, eval_set  # noqa: E402
from inspect_ai.dataset import MemoryDataset, Sample  # noqa: E402
from inspect_ai.log import read_eval_log_samples  # noqa: E402
from inspect_ai.model import GenerateConfig, get_model  # noqa: E402
from inspect_ai.solver import generate  # noqa: E402


def run(url: str, questions: list[str], level: int, folder: Path) -> Callable[[], dict[str, str]]:
    config = GenerateConfig(max_connections=level, max_retries=0, max_tokens=64, temperature=0.0)
    done, logs = eval_set(
        Task(
            dataset=MemoryDataset(
                [Sample(id=str(n), input=text) for n, text in enumerate(questions)]
            ),
            solver=generate(),
            name="asking",
        ),
        log_dir=str(folder / "logs"),
        model=get_model("openai-api/bench/test", base_url=url, api_key="none", config=config),
        max_samples=level,
        max_connections=level,
        display="none",
        ctl_server=False,
    )
    if not done:
        raise SystemExit(f"the eval set ended as {[log.status for log in logs]}")
    return lambda: {
        str(sample.input): sample.output.completion
        for log in logs
        for sample in read_eval_log_samples(log.location)
    }


if __name__ == "__main__":
    main(run)
