"""``robustft.answer``: the base view, the model's own answer to the query (RobustFT, Eq. 1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from pydantic import Field, model_validator

from nfilter import (
    JSON,
    Calls,
    Completion,
    Context,
    Contract,
    GeneratorName,
    PromptName,
    ReplyTokens,
    Sample,
    StageConfig,
    State,
    Temperature,
    View,
)
from nfilter_robustft.official_preset import apply_official_preset
from nfilter_robustft.pilot import WeakPolicy, add_weak_notes, is_weak, pilot, weak_view_notes
from nfilter_robustft.settings import CheckName, Logprobs, OnlyFlagged, Preset, SettledViews
from nfilter_robustft.skipping import asked_share, notes_read, split_asked, validate
from nfilter_robustft.views import RequestBuilder, add_notes, read_answer


class AnswerConfig(StageConfig):
    """``samples`` is the number of draws per query; more than one needs a ``temperature`` above 0.

    ``logprobs`` requests token log-probabilities for the ``nll``, which is null without them.

    ``settled`` skips samples whose verdict is settled by earlier views under a vote (any, all); the check must use the
    same vote. ``only: flagged`` runs after the ``check`` and asks about flagged samples not asked yet.

    ``weak: skip`` asks about pilot rows first and skips the others if the view is no better than chance there;
    ``weak: ask`` asks about every row.

    ``preset: official`` draws one answer of at most 512 tokens at temperature 1, like the published code. The prompt
    and the parsing of answers are not those of the published code.
    """

    llm: GeneratorName
    into: str = Field(default="base", description="The note with the view.")
    preset: Preset = "paper"
    prompt: PromptName = "robustft/answer"
    max_tokens: ReplyTokens = 256
    temperature: Temperature = 0.0
    samples: int = Field(
        default=1,
        ge=1,
        le=256,
        description="Answers drawn per query, 1 to 256; more than 1 needs a temperature above 0.",
    )
    logprobs: Logprobs = True
    settled: SettledViews = None
    only: OnlyFlagged = None
    check: CheckName = "check"
    weak: WeakPolicy = Field(
        default="skip",
        description="skip: after a pilot, skip the other rows if the view is no better than chance; ask: ask about every row.",
    )

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, value: Any) -> Any:
        return apply_official_preset(value, weak="ask")

    @model_validator(mode="after")
    def _settings_are_consistent(self) -> AnswerConfig:
        validate(self)
        return self

    @model_validator(mode="after")
    def _draws_differ(self) -> AnswerConfig:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"samples: {self.samples} draws the same answer {self.samples} times at temperature 0; "
                "set temperature: 0.7, or samples: 1"
            )
        return self


class Answer:
    """Stage that writes the model's direct answer as a view; with several draws, the majority answer."""

    name: ClassVar[str] = "robustft.answer"
    Config: ClassVar[type[StageConfig]] = AnswerConfig

    def __init__(self, config: AnswerConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: AnswerConfig) -> Contract:
        least, usual = asked_share(config)
        return Contract(
            reads=notes_read(config),
            writes=frozenset({config.into}),
            views=frozenset({config.into}),
            sometimes=frozenset({config.into} if notes_read(config) else ()),
            measures={config.into: _measures(config)},
            prompts=frozenset({config.prompt}),
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

        def ask(samples: Sequence[Sample]) -> list[tuple[str | None, bool]]:
            completions = self._draw(samples, ctx)
            notes = self._notes(samples, completions, ctx)
            return [
                (notes[sample.id].answer, any(draw.failure is None for draw in draws))
                for sample, draws in zip(samples, completions, strict=True)
            ]

        return pilot(stream, self.config, ctx, ask)

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        """Request all draws of all samples that are not skipped in one batch."""

        def ask(samples: Sequence[Sample]) -> dict[str, View]:
            return self._notes(samples, self._draw(samples, ctx), ctx)

        if is_weak(state):
            weak = weak_view_notes(chunk, state, ask, calls=self.config.samples)
            return add_weak_notes(chunk, self.config.into, weak)
        asked, notes = split_asked(chunk, self.config, ctx, calls=self.config.samples)
        return add_notes(chunk, self.config.into, {**notes, **ask(asked)})

    def _draw(self, samples: Sequence[Sample], ctx: Context) -> list[Sequence[Completion]]:
        """Return the completions of each sample."""
        config, m = self.config, self.config.samples
        builder = RequestBuilder(
            ctx, ctx.prompt(config.prompt), config.max_tokens, config.temperature, config.logprobs
        )
        requests = [builder.request(sample, draw=draw) for sample in samples for draw in range(m)]
        completions = ctx.model(config.llm).generate(requests)
        return [completions[i * m : (i + 1) * m] for i in range(len(samples))]

    def _notes(
        self, samples: Sequence[Sample], completions: Sequence[Sequence[Completion]], ctx: Context
    ) -> dict[str, View]:
        answers = [
            [read_answer(ctx, sample, completion, reasoned=False) for completion in draws]
            for sample, draws in zip(samples, completions, strict=True)
        ]
        majorities = majority_draws([[answer for answer, _ in each] for each in answers], ctx)
        return {
            sample.id: _note(draws, each, majority)
            for sample, draws, each, majority in zip(
                samples, completions, answers, majorities, strict=True
            )
        }


def _measures(config: AnswerConfig) -> dict[str, str | None]:
    nll: dict[str, str | None] = {"nll": config.llm} if config.logprobs else {}
    return {**nll, "agreement": None} if config.samples > 1 else nll


def majority_draws(answers: Sequence[Sequence[str | None]], ctx: Context) -> list[list[int]]:
    """Return, per sample, the indices of the draws with its majority answer; empty without any answer."""
    pairs = [
        (left, right) for each in answers for i, left in enumerate(each) for right in each[i + 1 :]
    ]
    same = iter(ctx.answers.agree(pairs))
    majorities = []
    for each in answers:
        supporters = [[i] if answer is not None else [] for i, answer in enumerate(each)]
        for i in range(len(each)):
            for j in range(i + 1, len(each)):
                if next(same):
                    supporters[i].append(j)
                    supporters[j].append(i)
        majorities.append(max(supporters, key=len))  # ties: the first draw
    return majorities


def _note(
    draws: Sequence[Completion],
    answers: Sequence[tuple[str | None, str | None]],
    majority: Sequence[int],
) -> View:
    chosen = majority[0] if majority else 0
    more: dict[str, JSON] = {"length": len(draws[chosen].logprobs or ())}
    if len(draws) > 1:
        more |= {"agreement": len(majority) / len(draws), "samples": len(draws)}
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
