"""A stage that keeps all rules, for tests that replace one of its members."""

from __future__ import annotations

from typing import Any

from nfilter import Contract, StageConfig


class Plain:
    """Does nothing wrong, to samples and to tokens."""

    name = "kit.plain"
    Config: Any = StageConfig

    def __init__(self, config: Any) -> None: ...

    @classmethod
    def contract(cls, config: Any) -> Contract:
        return Contract()

    def process(self, chunk: Any, state: Any, ctx: Any) -> Any:
        return chunk

    def process_tokens(self, chunk: Any, state: Any, ctx: Any, bit: int) -> Any:
        return chunk
