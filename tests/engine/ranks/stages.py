"""Stages for tests of ranks: one that asks a model, and one that records which rank did a chunk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from nfilter import Contract, Generates, ModelNeed, Request, Sample, State

Stage = Callable[..., type]
ASKS = Contract(writes=frozenset({"view"}), needs=(ModelNeed("student", Generates),))


def ask(chunk: Sequence[Sample], state: State, ctx: Any) -> list[Sample]:
    requests = [Request(sample.context, sample_id=sample.id) for sample in chunk]
    done = ctx.model("student").generate(requests)
    return [
        sample.note("view", answer.text).keep(f"it is {answer.text}")
        for sample, answer in zip(chunk, done, strict=True)
    ]


class Where:
    """A stage that records the rank of each chunk, and may fail once in one of them."""

    def __init__(self, fail: str = "", error: type[BaseException] = KeyboardInterrupt) -> None:
        self.threads: dict[str, str] = {}
        self.fail, self.error = fail, error

    def process(self, chunk: Sequence[Sample], state: State, ctx: Any) -> list[Sample]:
        name = threading.current_thread().name
        self.threads[chunk[0].query] = name if name.startswith("rank") else "rank 0"
        done = ask(chunk, state, ctx)
        if self.fail and self.fail in {sample.query for sample in chunk}:
            self.fail = ""
            raise self.error("stopped")
        return done
