"""Three sample stages: one asks a model, one decides, one looks at all samples before it processes any."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field

from nfilter import (
    JSON,
    Completion,
    Context,
    Contract,
    Generates,
    ModelNeed,
    Needs,
    Request,
    Sample,
    Sampling,
    StageConfig,
    State,
)


class AskConfig(StageConfig):
    """Which model is asked, with which template, and under which name its answer is kept."""

    llm: Annotated[str, Needs(Generates)] = Field(default="expert", description="who is asked")
    into: str = "view"
    prompt: str = "example/ask"
    logprobs: bool = Field(default=False, description="also keep the answer's nll")
    max_tokens: int = Field(default=32, ge=1)


class Ask:
    """Asks a model every question and keeps its answer as a view. Decides nothing."""

    name: ClassVar[str] = "example.ask"
    Config: ClassVar[type[StageConfig]] = AskConfig

    @classmethod
    def contract(cls, config: AskConfig) -> Contract:
        """One view; log-probabilities only where the config asks for them."""
        need = ModelNeed(config.llm, Generates, logprobs=config.logprobs, field="llm")
        return Contract(
            writes=frozenset({config.into}),
            views=frozenset({config.into}),
            prompts=frozenset({config.prompt}),
            needs=(need,),
        )

    def __init__(self, config: AskConfig) -> None:
        self.config = config

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> Sequence[Sample]:
        """One request a sample; batching, caching and resume are the engine's."""
        template = ctx.prompt(self.config.prompt)
        requests = [
            Request(
                template.render(query=sample.query),
                Sampling(max_tokens=self.config.max_tokens),
                logprobs=self.config.logprobs,
                sample_id=sample.id,
            )
            for sample in chunk
        ]
        completions = ctx.model(self.config.llm).generate(requests)
        return [
            sample.note(self.config.into, _view(sample, done, ctx))
            for sample, done in zip(chunk, completions, strict=True)
        ]


def _view(sample: Sample, done: Completion, ctx: Context) -> Mapping[str, JSON]:
    return {
        "answer": None if done.failure else ctx.answers.parse(done.text, sample),
        "text": done.text,
        "reasoning": None,
        "nll": done.nll,
        "tokens": done.completion_tokens,
        "calls": 1,
        "rounds": 0,
        "failure": done.failure.kind if done.failure else None,
    }


class AgreeConfig(StageConfig):
    """Which view the label is compared with."""

    view: str = "view"
    into: str = "verdict"


class Agree:
    """Drops the samples whose label a view contradicts; a view without an answer contradicts nothing."""

    name: ClassVar[str] = "example.agree"
    Config: ClassVar[type[StageConfig]] = AgreeConfig

    @classmethod
    def contract(cls, config: AgreeConfig) -> Contract:
        """Reads a view and writes a verdict."""
        return Contract(
            reads=frozenset({config.view}),
            writes=frozenset({config.into}),
            verdicts=frozenset({config.into}),
        )

    def __init__(self, config: AgreeConfig) -> None:
        self.config = config

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> Sequence[Sample]:
        """Every sample comes back, in order: a dropped one too."""
        answers = [_answer(sample.notes[self.config.view]) for sample in chunk]
        labels = [ctx.answers.parse(sample.response, sample) for sample in chunk]
        same = ctx.answers.agree(list(zip(labels, answers, strict=True)))
        return [
            self._decide(sample, answer, ok)
            for sample, answer, ok in zip(chunk, answers, same, strict=True)
        ]

    def _decide(self, sample: Sample, answer: str | None, ok: bool) -> Sample:
        flagged = answer is not None and not ok
        sample = sample.note(
            self.config.into, {"flagged": flagged, "noise_score": 1.0 if flagged else 0.0}
        )
        if flagged:
            return sample.drop(
                f"{self.config.view} says {answer}, the label says {sample.response}"
            )
        return sample.keep(f"{self.config.view} says {answer or 'nothing'}")


def _answer(note: Any) -> str | None:
    answer = note.get("answer") if isinstance(note, Mapping) else None
    return answer if isinstance(answer, str) else None


class LengthsConfig(StageConfig):
    """How much longer than the median a response may be."""

    factor: float = Field(default=3.0, gt=1)
    weight: float = Field(default=0.5, ge=0, description="the weight of a response that is longer")


class Lengths:
    """Halves the weight of responses that are far longer than the median."""

    name: ClassVar[str] = "example.lengths"
    Config: ClassVar[type[StageConfig]] = LengthsConfig

    @classmethod
    def contract(cls, config: LengthsConfig) -> Contract:
        """Writes no note; weights are a decision, and decisions need no contract."""
        return Contract()

    def __init__(self, config: LengthsConfig) -> None:
        self.config = config

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """The median over all samples. ``stream`` is read once and never held; lengths are small."""
        return State({"median": statistics.median(len(sample.response) for sample in stream)})

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> Sequence[Sample]:
        """One chunk, with what ``fit`` learned."""
        median = float(str(state.values["median"]))
        return [self._weigh(sample, median) for sample in chunk]

    def _weigh(self, sample: Sample, median: float) -> Sample:
        if len(sample.response) <= self.config.factor * median:
            return sample
        reason = f"{len(sample.response)} characters, over {self.config.factor:g} times the median {median:g}"
        return sample.weigh(self.config.weight, reason)
