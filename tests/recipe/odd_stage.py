"""A recipe without faults, and a stage with one setting of each kind."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from nfilter import Contract, StageConfig

GOOD = """\
name: sums
seed: 3
answer: number
chunk: 10
models:
  student: {use: example.adder}
  expert: student
  wise: expert
source: {use: example.qa, path: sums.qa, truth: true}
samples:
  - {use: example.ask, llm: expert, into: view}
  - {use: example.agree, view: view}
arms: [raw, cleaned]
encode: {model: student, max_length: 64, turns: last}
tokens:
  - {use: example.first, keep: 3}
train: {use: example.memory, model: student}
evaluate: {metric: accuracy, limit: 5, source: {use: example.qa, path: test.qa}}
"""


class OddConfig(StageConfig):
    """One field of each kind."""

    count: int = 1
    share: float = 0.5
    maybe: int | None = None
    tight: Annotated[int | None, "a mark"] = None
    switch: bool = False
    word: str = ""
    either: Literal["all", "any"] = "all"
    both: bool | int = 0
    deep: dict[str, int] = Field(default_factory=dict)


class Odd:
    """Takes everything."""

    name = "odd.stage"
    Config = OddConfig

    def __init__(self, config: OddConfig) -> None: ...

    @classmethod
    def contract(cls, config: OddConfig) -> Contract:
        return Contract()

    def process(self, chunk: Any, state: Any, ctx: Any) -> Any:
        return chunk
