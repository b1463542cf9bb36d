"""A plugin of one file for ``at_scale.py``: an encoder that computes a vector from the topic and the number in a text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from nfilter import Abilities, Embeds, FloatArray, Site, StageConfig, hookimpl

_NUMBERS = re.compile(r"topic (\d+), number (\d+)")
_TOPICS = 1000


class TopicsConfig(StageConfig):
    """Settings of ``bench.topics``."""

    dimensions: int = Field(default=64, ge=1, description="Numbers per vector.")
    spread: float = Field(default=1.0, ge=0, description="Standard deviation within a topic.")


class Topics:
    """Returns the centre of a text's topic plus noise, both drawn with seeds."""

    name: ClassVar[str] = "bench.topics"
    Config: ClassVar[type[StageConfig]] = TopicsConfig

    @classmethod
    def abilities(cls, config: TopicsConfig) -> Abilities:
        """Return what the encoder can do."""
        return Abilities(frozenset({Embeds}))

    @classmethod
    def problems(cls, config: TopicsConfig, site: Site) -> Iterable[str]:
        """Return no problem."""
        return ()

    def __init__(self, config: TopicsConfig, site: Site) -> None:
        self.config = config
        self._centres = np.random.default_rng(0).normal(size=(_TOPICS, config.dimensions))

    def fingerprint(self) -> str:
        """Return what identifies the encoder."""
        return f"topics 1 {self.config.dimensions} {self.config.spread}"

    def close(self) -> None:
        """Do nothing."""

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Return one vector per text, float32 [n, d]."""
        rows = np.empty((len(texts), self.config.dimensions), dtype=np.float32)
        for place, text in enumerate(texts):
            found = _NUMBERS.search(text)
            assert found is not None
            noise = np.random.default_rng(int(found[2])).normal(size=self.config.dimensions)
            rows[place] = self._centres[int(found[1]) % _TOPICS] + self.config.spread * noise
        return rows


@hookimpl
def nfilter_backends() -> tuple[type[Any], ...]:
    """Register the encoder."""
    return (Topics,)
