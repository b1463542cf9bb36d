"""Two stages that require the capabilities of this plugin."""

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from nfilter import Context, Contract, Needs, Sample, StageConfig, State
from nfilter_judges.capabilities import Entails, Rewards


class BestConfig(StageConfig):
    """Settings of ``judges.best``."""

    model: Annotated[str, Needs(Rewards)] = Field(default="reward", description="who scores")
    least: float = Field(default=1.0, description="lowest reward that is kept")
    into: str = "reward"


class Best:
    """Drops samples whose response has a low reward."""

    name: ClassVar[str] = "judges.best"
    Config: ClassVar[type[StageConfig]] = BestConfig

    @classmethod
    def contract(cls, config: BestConfig) -> Contract:
        """One note, the reward."""
        return Contract(writes=frozenset({config.into}))

    def __init__(self, config: BestConfig) -> None:
        self.config = config

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> Sequence[Sample]:
        """Score all responses of the chunk in one call."""
        rewards = ctx.model(self.config.model).use(Rewards).reward([s.response for s in chunk])
        return [
            self._decide(sample.note(self.config.into, reward), reward)
            for sample, reward in zip(chunk, rewards, strict=True)
        ]

    def _decide(self, sample: Sample, reward: float) -> Sample:
        if reward < self.config.least:
            return sample.drop(f"reward {reward:.2f}, below {self.config.least:g}")
        return sample.keep(f"reward {reward:.2f}")


class EntailedConfig(StageConfig):
    """Settings of ``judges.entailed``."""

    model: Annotated[str, Needs(Entails)] = Field(default="nli", description="who classifies")
    least: float = Field(default=0.5, description="lowest probability of entailment that is kept")


class Entailed:
    """Drops samples whose question does not entail the response."""

    name: ClassVar[str] = "judges.entailed"
    Config: ClassVar[type[StageConfig]] = EntailedConfig

    @classmethod
    def contract(cls, config: EntailedConfig) -> Contract:
        """It writes no note."""
        return Contract()

    def __init__(self, config: EntailedConfig) -> None:
        self.config = config

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> Sequence[Sample]:
        """Classify all samples of the chunk in one call."""
        nli = ctx.model(self.config.model).use(Entails)
        probabilities = nli.entail([(sample.query, sample.response) for sample in chunk])
        return [
            self._decide(sample, float(entailment))
            for sample, entailment in zip(chunk, probabilities[:, 0], strict=True)
        ]

    def _decide(self, sample: Sample, entailment: float) -> Sample:
        if entailment < self.config.least:
            return sample.drop(f"entailment {entailment:.2f}, below {self.config.least:g}")
        return sample.keep(f"entailment {entailment:.2f}")
