"""A token stage: only the first tokens of a response are learned."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from nfilter import Context, Contract, StageConfig, State, TokenSample


class FirstConfig(StageConfig):
    """How many tokens of the response stay in the loss."""

    keep: int = Field(default=16, ge=1)
    into: str = "position"


class First:
    """Takes all but the first tokens of the response out of the loss."""

    name: ClassVar[str] = "example.first"
    Config: ClassVar[type[StageConfig]] = FirstConfig

    @classmethod
    def contract(cls, config: FirstConfig) -> Contract:
        """Writes one score: the position within the response."""
        return Contract(writes=frozenset({config.into}))

    def __init__(self, config: FirstConfig) -> None:
        self.config = config

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Context, bit: int
    ) -> Sequence[TokenSample]:
        """``bit`` is this stage's own reason: whoever asks why a token is out is told its name."""
        return [self._cut(sample, bit) for sample in chunk]

    def _cut(self, sample: TokenSample, bit: int) -> TokenSample:
        place = np.cumsum(sample.response) - 1
        score = np.where(sample.response, place, np.nan).astype(np.float32)
        return sample.score(self.config.into, score).mask(place >= self.config.keep, bit)
