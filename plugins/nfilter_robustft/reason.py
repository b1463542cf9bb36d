"""``robustft.reason``: the reasoning view, by alternating reasoning and reflection (RobustFT, Eq. 2)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

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
from nfilter_robustft.pilot import (
    WeakPolicy,
    add_weak_notes,
    is_weak,
    pilot,
    split_piloted,
    weak_view_notes,
)
from nfilter_robustft.settings import CheckName, Logprobs, OnlyFlagged, Preset, SettledViews
from nfilter_robustft.skipping import asked_share, notes_read, split_asked, validate
from nfilter_robustft.views import RequestBuilder, add_notes, read_answer

_MIN_REPLY_TOKENS = 256
_MIN_ROW_TOKENS = 2048
_REPLIES = 4  # per row
_MIN_LENGTHS = 16
_MAX_TRUNCATED = 2
_SAVING = ("settled", "cut off", "tokens")  # reasons to stop that save the remaining rounds


class ReasonConfig(StageConfig):
    """``rounds`` is the maximum number of rounds (reflect, reason again) after the first reasoning.

    ``preset: official`` reasons once, in at most 512 tokens at temperature 1, without reflection, like the published
    code. The prompt and the parsing of answers are not those of the published code.

    ``settled`` skips samples whose verdict is settled by earlier views under a vote (any, all); the check must use the
    same vote. ``only: flagged`` runs after the ``check`` and asks about flagged samples not asked yet.

    A sample's rounds end when two consecutive reasonings have the same answer, when two consecutive ones are truncated
    before an answer, or when its replies reach ``row_tokens`` tokens in total. With ``auto``, the limit of later
    replies is twice the 95th percentile of the pilot's complete replies, between 256 and ``max_tokens``, and
    ``row_tokens`` is four such replies, at least 2,048. A number limits the total only; null sets no limit.

    ``weak: skip`` reasons once about pilot rows and skips the other rows and all rounds if the view is no better than
    chance there; ``weak: ask`` asks about every row.
    """

    llm: GeneratorName
    into: str = Field(default="reasoning", description="The note with the view.")
    preset: Preset = "paper"
    rounds: int = Field(
        default=4,
        ge=0,
        le=64,
        description="Rounds of reflection and new reasoning after the first, at most, 0 to 64.",
    )
    prompt: PromptName = "robustft/reason"
    reflect_prompt: str = Field(
        default="robustft/reflect", description="The template of the reflection, folder/name."
    )
    max_tokens: ReplyTokens = 1024
    row_tokens: Annotated[int, Field(ge=1)] | Literal["auto"] | None = Field(
        default="auto",
        description="Tokens of all replies about one sample, at most; auto sets the limit after a pilot, null sets none.",
    )
    temperature: Temperature = 0.0
    logprobs: Logprobs = True
    settled: SettledViews = None
    only: OnlyFlagged = None
    check: CheckName = "check"
    weak: WeakPolicy = Field(
        default="skip",
        description="skip: after a pilot, skip the other rows and all rounds if the view is no better than chance; ask: ask about every row.",
    )

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, value: Any) -> Any:
        return apply_official_preset(value, rounds=0, weak="ask", row_tokens=None)

    @model_validator(mode="after")
    def _settings_are_consistent(self) -> ReasonConfig:
        validate(self)
        return self


@dataclass(slots=True)
class _Progress:
    """Progress of one sample: one of ``answers`` per reasoning; ``last`` is the latest complete reasoning.

    ``truncated`` counts the latest consecutive reasonings that were truncated before an answer.
    """

    sample: Sample
    last: Completion
    answers: list[str | None]
    failure: str | None
    calls: int = 1
    tokens: int = 0
    stopped: str | None = None
    truncated: int = 0
    reflection: str = field(default="")

    @property
    def rounds(self) -> int:
        """Number of completed rounds."""
        return len(self.answers) - 1


class Reason:
    """Stage that writes the answer of step-by-step reasoning with reflection as a view.

    A sample stops when two consecutive reasonings agree, when two consecutive ones are truncated before an answer, or
    at its token limit. Each round runs for all samples of a chunk together. If a call fails after the first reasoning,
    the last complete reasoning is used, and ``stopped`` is the reason.
    """

    name: ClassVar[str] = "robustft.reason"
    Config: ClassVar[type[StageConfig]] = ReasonConfig

    def __init__(self, config: ReasonConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: ReasonConfig) -> Contract:
        prompts = {config.prompt, config.reflect_prompt} if config.rounds else {config.prompt}
        return Contract(
            reads=notes_read(config),
            writes=frozenset({config.into}),
            views=frozenset({config.into}),
            sometimes=frozenset({config.into} if notes_read(config) else ()),
            measures={config.into: {"nll": config.llm} if config.logprobs else {}},
            prompts=frozenset(prompts),
            calls=(_calls(config),),
        )

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """Run the pilot with the first reasoning only, and derive the limit of later replies from its lengths."""
        lengths: list[int] = []

        def ask(samples: Sequence[Sample]) -> list[tuple[str | None, bool]]:
            rows = self._first_reasoning(samples, ctx)
            lengths.extend(row.tokens for row in rows if row.last.finish == "stop")
            return [(row.answers[0], row.stopped is None) for row in rows]

        state = pilot(stream, self.config, ctx, ask)
        return state if is_weak(state) else self._with_reply_limit(state, lengths, ctx)

    def _with_reply_limit(self, state: State, lengths: Sequence[int], ctx: Context) -> State:
        limit = reply_limit(lengths, self.config.max_tokens)
        if self.config.row_tokens != "auto" or limit is None:
            return state
        ctx.log.info(
            f"{self.config.into}: later replies are limited to {limit} tokens, from the lengths of {len(lengths)} pilot replies "
            f"(row_tokens: null keeps max_tokens: {self.config.max_tokens} as the only limit)"
        )
        return State({**state.values, "reply_tokens": limit}, state.arrays)

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        """Reason about every sample that is not skipped, then run rounds for those that have not stopped."""
        config, calls = self.config, 1 + 2 * self.config.rounds
        if is_weak(state):

            def once(samples: Sequence[Sample]) -> dict[str, View]:
                return {row.sample.id: _note(row, 0) for row in self._first_reasoning(samples, ctx)}

            weak = weak_view_notes(chunk, state, once, calls)
            return add_weak_notes(chunk, config.into, weak)
        asked, notes = split_asked(chunk, config, ctx, calls=calls)
        piloted, others = split_piloted(asked, state)
        limit = _reply_limit_of(state, config.max_tokens)
        rows = {row.sample.id: row for row in self._first_reasoning(piloted, ctx)}
        rows |= {row.sample.id: row for row in self._first_reasoning(others, ctx, limit)}
        self._run_rounds([rows[sample.id] for sample in asked], limit, ctx)
        notes |= {name: _note(row, config.rounds) for name, row in rows.items()}
        return add_notes(chunk, config.into, notes)

    def _builder(self, ctx: Context, prompt: str, logprobs: bool, limit: int) -> RequestBuilder:
        return RequestBuilder(ctx, ctx.prompt(prompt), limit, self.config.temperature, logprobs)

    def _first_reasoning(
        self, samples: Sequence[Sample], ctx: Context, limit: int | None = None
    ) -> list[_Progress]:
        """Reason once about each sample, in at most ``limit`` tokens (None: ``max_tokens``)."""
        if not samples:
            return []
        max_tokens = self.config.max_tokens if limit is None else limit
        reasoner = self._builder(ctx, self.config.prompt, self.config.logprobs, max_tokens)
        completions = ctx.model(self.config.llm).generate(
            [
                reasoner.request(sample, key="0", reasoning=None, reflection=None)
                for sample in samples
            ]
        )
        return [
            _start(sample, completion, ctx)
            for sample, completion in zip(samples, completions, strict=True)
        ]

    def _run_rounds(self, rows: Sequence[_Progress], limit: int, ctx: Context) -> None:
        """Reflect and reason again, all samples together, until each has stopped or used its rounds."""
        config, model = self.config, ctx.model(self.config.llm)
        reasoner = self._builder(ctx, config.prompt, config.logprobs, limit)
        if config.rounds:
            reflector = self._builder(ctx, config.reflect_prompt, logprobs=False, limit=limit)
        row_limit = config.row_tokens
        if row_limit == "auto":
            row_limit = max(_MIN_ROW_TOKENS, _REPLIES * limit)
        for number in range(1, config.rounds + 1):
            for row in rows:
                if row.stopped is None and row_limit is not None and row.tokens >= row_limit:
                    row.stopped = "tokens"
            active = [row for row in rows if row.stopped is None]
            reflections = model.generate(
                [
                    reflector.request(
                        row.sample,
                        key=f"reflect {number}",
                        reasoning=_steps(row.last),
                        answer=row.answers[-1],
                    )
                    for row in active
                ]
            )
            for row, reflection in zip(active, reflections, strict=True):
                _add_reflection(row, reflection)
            active = [row for row in active if row.stopped is None]
            completions = model.generate(
                [
                    reasoner.request(
                        row.sample,
                        key=str(number),
                        reasoning=_steps(row.last),
                        reflection=row.reflection,
                    )
                    for row in active
                ]
            )
            _add_reasonings(active, completions, ctx)


def _start(sample: Sample, completion: Completion, ctx: Context) -> _Progress:
    answer, failure = read_answer(ctx, sample, completion, reasoned=True)
    row = _Progress(sample, completion, [answer], failure, tokens=completion.completion_tokens)
    row.truncated = int(_is_truncated(completion, answer))
    if completion.failure is not None:
        row.stopped = "failed"
    return row


def _is_truncated(completion: Completion, answer: str | None) -> bool:
    return completion.finish == "length" and answer is None


def _reply_limit_of(state: State | None, max_tokens: int) -> int:
    limit = state.values.get("reply_tokens") if state is not None else None
    return limit if isinstance(limit, int) else max_tokens


def reply_limit(lengths: Sequence[int], max_tokens: int) -> int | None:
    """Return the token limit of a reply from the ``lengths`` of complete ones; None unless below ``max_tokens``."""
    if len(lengths) < _MIN_LENGTHS:
        return None
    percentile = sorted(lengths)[math.ceil(0.95 * len(lengths)) - 1]
    limit = max(_MIN_REPLY_TOKENS, 2 * percentile)
    return limit if limit < max_tokens else None


def _add_reflection(row: _Progress, completion: Completion) -> None:
    row.calls += 1
    row.tokens += completion.completion_tokens
    row.reflection = completion.text
    if completion.failure is not None:
        row.stopped = f"reflection failed: {completion.failure}"


def _add_reasonings(rows: Sequence[_Progress], new: Sequence[Completion], ctx: Context) -> None:
    """Add the new reasonings; stop the rows whose answer agrees with the previous one."""
    complete = []
    for row, completion in zip(rows, new, strict=True):
        row.calls += 1
        row.tokens += completion.completion_tokens
        answer, failure = read_answer(ctx, row.sample, completion, reasoned=True)
        if completion.failure is not None:
            row.stopped = f"reasoning failed: {failure}"
            continue
        row.last, row.failure = completion, failure
        row.answers.append(answer)
        row.truncated = row.truncated + 1 if _is_truncated(completion, answer) else 0
        if row.truncated == _MAX_TRUNCATED:
            row.stopped = "cut off"
        complete.append(row)
    settled = ctx.answers.agree([(row.answers[-2], row.answers[-1]) for row in complete])
    for row, same in zip(complete, settled, strict=True):
        if same:
            row.stopped = "settled"


def _steps(completion: Completion) -> str:
    """Return the reasoning in a completion: its thoughts, then its text."""
    return "\n\n".join(part for part in (completion.reasoning, completion.text) if part)


def _calls(config: ReasonConfig) -> Calls:
    # A usual sample reasons once and reflects once; each further round makes two calls.
    least, usual = asked_share(config)
    first = 2 if config.rounds else 1
    return Calls(
        config.llm, config.prompt, config.max_tokens, least, usual * first, 1 + 2 * config.rounds
    )


def _note(row: _Progress, rounds: int) -> View:
    more: dict[str, JSON] = {
        "length": len(row.last.logprobs or ()),
        "answers": list(row.answers),
        "stopped": row.stopped or "rounds",
        "saved": 1 + 2 * rounds - row.calls if row.stopped in _SAVING else 0,
    }
    return View(
        row.answers[-1],
        text=row.last.text,
        reasoning=_steps(row.last) or None,
        nll=row.last.nll,
        tokens=row.tokens,
        calls=row.calls,
        rounds=row.rounds,
        failure=row.failure,
        more=more,
    )
