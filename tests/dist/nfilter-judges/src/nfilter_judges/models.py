"""Two models without weights. Each appends the number of items of a call to a file, so that tests can count calls."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from nfilter import Abilities, Price, Site, StageConfig
from nfilter_judges.capabilities import Entails, Rewards


class RewardConfig(StageConfig):
    """Settings of ``judges.reward``."""

    log: str | None = Field(default=None, description="file for the number of texts of each call")


class RewardModel:
    """Scores a text by the logarithm of its number of words."""

    name: ClassVar[str] = "judges.reward"
    Config: ClassVar[type[StageConfig]] = RewardConfig

    @classmethod
    def abilities(cls, config: RewardConfig) -> Abilities:
        """It has one capability, which this plugin defines."""
        return Abilities(frozenset({Rewards}))

    @classmethod
    def problems(cls, config: RewardConfig, site: Site) -> Iterable[str]:
        """Nothing can be missing."""
        return ()

    def __init__(self, config: RewardConfig, site: Site) -> None:
        self._log = site.base_dir / config.log if config.log else None

    def fingerprint(self) -> str:
        """Return what a stored result depends on."""
        return "judges.reward 1"

    def close(self) -> None:
        """Nothing to release."""

    def reward(self, texts: Sequence[str]) -> list[float]:
        """Return one score per text."""
        _count(self._log, len(texts))
        return [math.log1p(len(text.split())) for text in texts]


class NliConfig(StageConfig):
    """Settings of ``judges.nli``."""

    usd: float = Field(default=0.0, ge=0, description="dollars per pair")
    log: str | None = Field(default=None, description="file for the number of pairs of each call")


class NliModel:
    """Takes a hypothesis for entailed as far as its words are in the premise."""

    name: ClassVar[str] = "judges.nli"
    Config: ClassVar[type[StageConfig]] = NliConfig

    @classmethod
    def abilities(cls, config: NliConfig) -> Abilities:
        """It has one capability, which this plugin defines."""
        return Abilities(frozenset({Entails}))

    @classmethod
    def problems(cls, config: NliConfig, site: Site) -> Iterable[str]:
        """Nothing can be missing."""
        return ()

    @classmethod
    def price(cls, config: NliConfig) -> Price:
        """Its calls cost money, per pair and not per token."""
        return Price(config.usd, 0.0)

    def __init__(self, config: NliConfig, site: Site) -> None:
        self._usd = config.usd
        self._budget = site.budget
        self._log = site.base_dir / config.log if config.log else None

    def fingerprint(self) -> str:
        """Return what a stored result depends on."""
        return "judges.nli 1"

    def close(self) -> None:
        """Nothing to release."""

    def entail(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float32]:
        """Return the probabilities of entailment, neutrality and contradiction, [n, 3]."""
        cost = self._usd * len(pairs)
        if self._budget is not None:
            self._budget.hold(cost)
            self._budget.settle(cost, cost)
        _count(self._log, len(pairs))
        return np.array([_probabilities(*pair) for pair in pairs], dtype=np.float32).reshape(-1, 3)


def _probabilities(premise: str, hypothesis: str) -> tuple[float, float, float]:
    words = set(hypothesis.split())
    share = len(words & set(premise.split())) / max(1, len(words))
    return share, (1 - share) / 2, (1 - share) / 2


def _count(log: Path | None, items: int) -> None:
    if log is not None:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{items}\n")
