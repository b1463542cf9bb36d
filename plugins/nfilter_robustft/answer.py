"""The base view: the model's own answer to the query (RobustFT, Eq. 1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from nfilter import (
    JSON,
    Calls,
    Completion,
    Context,
    Contract,
    Generates,
    ModelNeed,
    Needs,
    Sample,
    StageConfig,
    State,
    View,
)
from nfilter_robustft.lazy import Settled, divide, reads, share_asked, sound
from nfilter_robustft.pilot import Weak, is_weak, noted_as_weak, notes_of_weak, pilot
from nfilter_robustft.published import as_published
from nfilter_robustft.views import Asking, read, with_notes


class AnswerConfig(StageConfig):
    """``samples`` draws a query, at a ``temperature`` above 0 where they are several.

    ``logprobs`` asks for token probabilities, which ``nll`` comes from; a model without them leaves it null.

    ``settled`` skips samples whose verdict earlier views settle under a vote (any, all), which the check then has to
    take. ``only: flagged`` asks after the ``check`` about flagged samples alone, and not again where ``into`` has been
    asked already.

    ``weak: skip`` asks about the first rows, and where they show a view that is no better than chance, about no others;
    ``weak: ask`` asks about every row.

    ``preset: official`` draws one answer of at most 512 tokens at temperature 1, as the published code does. The prompt
    and how an answer is read are not the published ones.
    """

    llm: Annotated[str, Needs(Generates)]
    into: str = "base"
    preset: Literal["paper", "official"] = "paper"
    prompt: str = "robustft/answer"
    max_tokens: int = Field(default=256, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    samples: int = Field(default=1, ge=1, le=256)
    logprobs: bool = True
    settled: Settled | None = None
    only: Literal["flagged"] | None = None
    check: str = "check"
    weak: Weak = "skip"

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, value: Any) -> Any:
        return as_published(value, weak="ask")

    @model_validator(mode="after")
    def _asks_soundly(self) -> AnswerConfig:
        sound(self)
        return self

    @model_validator(mode="after")
    def _draws_differ(self) -> AnswerConfig:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"samples: {self.samples} would be the same answer {self.samples} times at temperature 0; "
                "set temperature: 0.7, or samples: 1"
            )
        return self


class Answer:
    """Writes the model's direct answer as a view; of several draws, the one that most of them agree with."""

    name: ClassVar[str] = "robustft.answer"
    Config: ClassVar[type[StageConfig]] = AnswerConfig

    def __init__(self, config: AnswerConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: AnswerConfig) -> Contract:
        """One view, one prompt, one model; reads what decides whom to ask."""
        least, usual = share_asked(config)
        return Contract(
            reads=reads(config),
            writes=frozenset({config.into}),
            views=frozenset({config.into}),
            sometimes=frozenset({config.into} if reads(config) else ()),
            measures={config.into: _measures(config)},
            prompts=frozenset({config.prompt}),
            needs=(ModelNeed(config.llm, Generates, field="llm"),),
            calls=(
                Calls(
                    config.llm,
                    config.prompt,
                    config.max_tokens,
                    least=least * config.samples,
                    usual=usual * config.samples,
                    most=config.samples,
                ),
            ),
        )

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """Find out on the first rows whether the view is worth asking."""

        def ask(samples: Sequence[Sample]) -> list[tuple[str | None, bool]]:
            drawn = self._drawn(samples, ctx)
            notes = self._notes(samples, drawn, ctx)
            return [
                (notes[sample.id].answer, any(draw.failure is None for draw in draws))
                for sample, draws in zip(samples, drawn, strict=True)
            ]

        return pilot(stream, self.config, ctx, ask)

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        """Ask all draws of all samples at once, but for those that need no answer."""

        def ask(samples: Sequence[Sample]) -> dict[str, View]:
            return self._notes(samples, self._drawn(samples, ctx), ctx)

        if is_weak(state):
            weak = notes_of_weak(chunk, state, ask, calls=self.config.samples)
            return noted_as_weak(chunk, self.config.into, weak)
        asked, notes = divide(chunk, self.config, ctx, calls=self.config.samples)
        return with_notes(chunk, self.config.into, {**notes, **ask(asked)})

    def _drawn(self, asked: Sequence[Sample], ctx: Context) -> list[Sequence[Completion]]:
        """The completions of each sample."""
        config, m = self.config, self.config.samples
        asking = Asking(
            ctx, ctx.prompt(config.prompt), config.max_tokens, config.temperature, config.logprobs
        )
        requests = [asking.request(sample, draw=draw) for sample in asked for draw in range(m)]
        completions = ctx.model(config.llm).generate(requests)
        return [completions[i * m : (i + 1) * m] for i in range(len(asked))]

    def _notes(
        self, asked: Sequence[Sample], drawn: Sequence[Sequence[Completion]], ctx: Context
    ) -> dict[str, View]:
        answers = [
            [read(ctx, sample, completion, reasoned=False) for completion in draws]
            for sample, draws in zip(asked, drawn, strict=True)
        ]
        votes = agreeing([[answer for answer, _ in each] for each in answers], ctx)
        return {
            sample.id: _note(draws, each, supporters)
            for sample, draws, each, supporters in zip(asked, drawn, answers, votes, strict=True)
        }


def _measures(config: AnswerConfig) -> dict[str, str | None]:
    nll: dict[str, str | None] = {"nll": config.llm} if config.logprobs else {}
    return {**nll, "agreement": None} if config.samples > 1 else nll


def agreeing(answers: Sequence[Sequence[str | None]], ctx: Context) -> list[list[int]]:
    """For each sample the draws behind its majority answer, the first of them first; none where none answered."""
    pairs = [
        (left, right) for each in answers for i, left in enumerate(each) for right in each[i + 1 :]
    ]
    same = iter(ctx.answers.agree(pairs))
    votes = []
    for each in answers:
        behind = [[i] if answer is not None else [] for i, answer in enumerate(each)]
        for i in range(len(each)):
            for j in range(i + 1, len(each)):
                if next(same):
                    behind[i].append(j)
                    behind[j].append(i)
        best = max(behind, key=len)  # of equals the first draw
        votes.append(best)
    return votes


def _note(
    draws: Sequence[Completion],
    answers: Sequence[tuple[str | None, str | None]],
    supporters: Sequence[int],
) -> View:
    chosen = supporters[0] if supporters else 0
    more: dict[str, JSON] = {"length": len(draws[chosen].logprobs or ())}
    if len(draws) > 1:
        more |= {"agreement": len(supporters) / len(draws), "samples": len(draws)}
    return View(
        answers[chosen][0],
        text=draws[chosen].text,
        reasoning=draws[chosen].reasoning,
        nll=draws[chosen].nll,
        tokens=sum(draw.completion_tokens for draw in draws),
        calls=len(draws),
        failure=answers[chosen][1],
        more=more,
    )
