"""The reasoning view: reason, reflect on it, reason again (RobustFT, Eq. 2)."""

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
    Generates,
    ModelNeed,
    Needs,
    Sample,
    StageConfig,
    State,
    View,
)
from nfilter_robustft.lazy import Settled, divide, reads, share_asked, sound
from nfilter_robustft.pilot import Weak, is_weak, noted_as_weak, notes_of_weak, of_first, pilot
from nfilter_robustft.published import as_published
from nfilter_robustft.views import Asking, read, with_notes

_LEAST_REPLY = 256
_LEAST_ROW = 2048
_REPLIES = 4
_FEW = 16
_CUTS = 2
_DONE = ("settled", "cut off", "tokens")  # why rounds are not needed, or not worth their calls


class ReasonConfig(StageConfig):
    """Up to ``rounds`` of (reflect, reason again) after the first reasoning.

    ``preset: official`` reasons once, in at most 512 tokens at temperature 1, and never reflects, as the published code
    does. The prompt and how an answer is read are not the published ones.

    ``settled`` skips samples whose verdict earlier views settle under a vote (any, all), which the check then has to
    take. ``only: flagged`` asks after the ``check`` about flagged samples alone, and not again where ``into`` has been
    asked already.

    A sample's rounds end when two reasonings in a row have the same answer, when two in a row were cut off before they had
    one, or when its replies have ``row_tokens`` tokens together. ``auto`` learns from the first rows: no later reply may be
    longer than twice all but one in twenty of theirs that were complete, 256 at least and ``max_tokens`` at most, and
    ``row_tokens`` is four such replies, 2,048 at least. A number bounds the sum alone, null nothing.

    ``weak: skip`` reasons once about the first rows, and where they show a view that is no better than chance, about no
    others and without rounds; ``weak: ask`` asks about every row.
    """

    llm: Annotated[str, Needs(Generates)]
    into: str = "reasoning"
    preset: Literal["paper", "official"] = "paper"
    rounds: int = Field(default=4, ge=0, le=64)
    prompt: str = "robustft/reason"
    reflect_prompt: str = "robustft/reflect"
    max_tokens: int = Field(default=1024, ge=1)
    row_tokens: Annotated[int, Field(ge=1)] | Literal["auto"] | None = "auto"
    temperature: float = Field(default=0.0, ge=0)
    logprobs: bool = True
    settled: Settled | None = None
    only: Literal["flagged"] | None = None
    check: str = "check"
    weak: Weak = "skip"

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, value: Any) -> Any:
        return as_published(value, rounds=0, weak="ask", row_tokens=None)

    @model_validator(mode="after")
    def _asks_soundly(self) -> ReasonConfig:
        sound(self)
        return self


@dataclass(slots=True)
class _Course:
    """How far one sample has come. ``answers`` has one entry a reasoning; ``last`` is the newest completion.

    ``cut`` counts the newest reasonings in a row that were cut off before they had an answer.
    """

    sample: Sample
    last: Completion
    answers: list[str | None]
    failure: str | None
    calls: int = 1
    tokens: int = 0
    stopped: str | None = None
    cut: int = 0
    reflection: str = field(default="")

    @property
    def rounds(self) -> int:
        """Rounds that were completed."""
        return len(self.answers) - 1


class Reason:
    """Writes the answer that step-by-step reasoning settles on.

    A sample stops as soon as two reasonings in a row agree, the first one included; also where two in a row were cut off
    before they had an answer, or its tokens are used up. All samples of a chunk go round by round together. A call that fails after the first reasoning ends the loop there: the last complete
    reasoning stands, and ``stopped`` says why.
    """

    name: ClassVar[str] = "robustft.reason"
    Config: ClassVar[type[StageConfig]] = ReasonConfig

    def __init__(self, config: ReasonConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: ReasonConfig) -> Contract:
        """One view; the prompt of the reflection only where there is one."""
        prompts = {config.prompt, config.reflect_prompt} if config.rounds else {config.prompt}
        return Contract(
            reads=reads(config),
            writes=frozenset({config.into}),
            views=frozenset({config.into}),
            sometimes=frozenset({config.into} if reads(config) else ()),
            measures={config.into: {"nll": config.llm} if config.logprobs else {}},
            prompts=frozenset(prompts),
            needs=(ModelNeed(config.llm, Generates, field="llm"),),
            calls=(_calls(config),),
        )

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """Find out on the first rows, by their first reasoning alone, whether the view is worth asking, and how long replies are."""
        lengths: list[int] = []

        def ask(samples: Sequence[Sample]) -> list[tuple[str | None, bool]]:
            courses = self._begun(samples, ctx)
            lengths.extend(course.tokens for course in courses if course.last.finish == "stop")
            return [(course.answers[0], course.stopped is None) for course in courses]

        state = pilot(stream, self.config, ctx, ask)
        return state if is_weak(state) else self._bounded(state, lengths, ctx)

    def _bounded(self, state: State, lengths: Sequence[int], ctx: Context) -> State:
        """``state`` with how long later replies may be, where the first rows tell."""
        limit = reply_limit(lengths, self.config.max_tokens)
        if self.config.row_tokens != "auto" or limit is None:
            return state
        ctx.log.info(
            f"{self.config.into}: replies have at most {limit} tokens from here on, twice what {len(lengths)} of the first rows needed "
            f"(row_tokens: null leaves max_tokens: {self.config.max_tokens} alone)"
        )
        return State({**state.values, "reply_tokens": limit}, state.arrays)

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        """Reason about every sample that needs it, then go round by round with those that have not settled."""
        config, calls = self.config, 1 + 2 * self.config.rounds
        if is_weak(state):

            def once(samples: Sequence[Sample]) -> dict[str, View]:
                return {each.sample.id: _note(each, 0) for each in self._begun(samples, ctx)}

            weak = notes_of_weak(chunk, state, once, calls)
            return noted_as_weak(chunk, config.into, weak)
        asked, notes = divide(chunk, config, ctx, calls=calls)
        first, later = of_first(asked, state)
        limit = _limit(state, config.max_tokens)
        begun = {each.sample.id: each for each in self._begun(first, ctx)}
        begun |= {each.sample.id: each for each in self._begun(later, ctx, limit)}
        courses = [begun[sample.id] for sample in asked]
        self._rounds(courses, limit, ctx)
        for course in courses:
            notes[course.sample.id] = _note(course, config.rounds)
        return with_notes(chunk, config.into, notes)

    def _asking(self, ctx: Context, prompt: str, logprobs: bool, limit: int) -> Asking:
        return Asking(ctx, ctx.prompt(prompt), limit, self.config.temperature, logprobs)

    def _begun(
        self, samples: Sequence[Sample], ctx: Context, limit: int | None = None
    ) -> list[_Course]:
        """The first reasoning about each sample, of at most ``limit`` tokens, ``max_tokens`` where it is None."""
        if not samples:
            return []
        most = self.config.max_tokens if limit is None else limit
        reasoner = self._asking(ctx, self.config.prompt, self.config.logprobs, most)
        first = ctx.model(self.config.llm).generate(
            [
                reasoner.request(sample, key="0", reasoning=None, reflection=None)
                for sample in samples
            ]
        )
        return [_begin(sample, done, ctx) for sample, done in zip(samples, first, strict=True)]

    def _rounds(self, courses: Sequence[_Course], limit: int, ctx: Context) -> None:
        """Reflect and reason again, all samples together, until each has settled or has had its rounds."""
        config, model = self.config, ctx.model(self.config.llm)
        reasoner = self._asking(ctx, config.prompt, config.logprobs, limit)
        if config.rounds:
            reflector = self._asking(ctx, config.reflect_prompt, logprobs=False, limit=limit)
        most = (
            max(_LEAST_ROW, _REPLIES * limit) if config.row_tokens == "auto" else config.row_tokens
        )
        for number in range(1, config.rounds + 1):
            for course in courses:
                _spent(course, most)
            going = [course for course in courses if course.stopped is None]
            said = model.generate(
                [
                    reflector.request(
                        course.sample,
                        key=f"reflect {number}",
                        reasoning=_steps(course.last),
                        answer=course.answers[-1],
                    )
                    for course in going
                ]
            )
            for course, done in zip(going, said, strict=True):
                _reflected(course, done)
            going = [course for course in going if course.stopped is None]
            again = model.generate(
                [
                    reasoner.request(
                        course.sample,
                        key=str(number),
                        reasoning=_steps(course.last),
                        reflection=course.reflection,
                    )
                    for course in going
                ]
            )
            _reasoned(going, again, ctx)


def _begin(sample: Sample, done: Completion, ctx: Context) -> _Course:
    answer, failure = read(ctx, sample, done, reasoned=True)
    course = _Course(sample, done, [answer], failure, tokens=done.completion_tokens)
    course.cut = int(_was_cut(done, answer))
    if done.failure is not None:
        course.stopped = "failed"
    return course


def _was_cut(done: Completion, answer: str | None) -> bool:
    return done.finish == "length" and answer is None


def _spent(course: _Course, most: int | None) -> None:
    """End the rounds of a sample whose replies have ``most`` tokens together."""
    if course.stopped is None and most is not None and course.tokens >= most:
        course.stopped = "tokens"


def _limit(state: State | None, most: int) -> int:
    """How many tokens a reply may have, as the first rows told, else ``most``."""
    found = state.values.get("reply_tokens") if state is not None else None
    return found if isinstance(found, int) else most


def reply_limit(lengths: Sequence[int], most: int) -> int | None:
    """How many tokens a reply may have, given the ``lengths`` of complete ones; None where they tell nothing under ``most``."""
    if len(lengths) < _FEW:
        return None
    usual = sorted(lengths)[math.ceil(0.95 * len(lengths)) - 1]
    limit = max(_LEAST_REPLY, 2 * usual)
    return limit if limit < most else None


def _reflected(course: _Course, done: Completion) -> None:
    course.calls += 1
    course.tokens += done.completion_tokens
    course.reflection = done.text
    if done.failure is not None:
        course.stopped = f"reflection failed: {done.failure.kind}: {done.failure.detail}"


def _reasoned(courses: Sequence[_Course], again: Sequence[Completion], ctx: Context) -> None:
    """Take the new reasonings; those whose answer is that of the round before have settled."""
    complete = []
    for course, done in zip(courses, again, strict=True):
        course.calls += 1
        course.tokens += done.completion_tokens
        answer, failure = read(ctx, course.sample, done, reasoned=True)
        if done.failure is not None:
            course.stopped = f"reasoning failed: {failure}"
            continue
        course.last, course.failure = done, failure
        course.answers.append(answer)
        course.cut = course.cut + 1 if _was_cut(done, answer) else 0
        if course.cut == _CUTS:
            course.stopped = "cut off"
        complete.append(course)
    settled = ctx.answers.agree([(course.answers[-2], course.answers[-1]) for course in complete])
    for course, same in zip(complete, settled, strict=True):
        if same:
            course.stopped = "settled"


def _steps(done: Completion) -> str:
    """The reasoning in a completion: its thoughts, then its text."""
    return "\n\n".join(part for part in (done.reasoning, done.text) if part)


def _calls(config: ReasonConfig) -> Calls:
    # Reasoning and one look at it; a round more asks twice.
    least, usual = share_asked(config)
    first = 2 if config.rounds else 1
    return Calls(
        config.llm, config.prompt, config.max_tokens, least, usual * first, 1 + 2 * config.rounds
    )


def _note(course: _Course, rounds: int) -> View:
    more: dict[str, JSON] = {
        "length": len(course.last.logprobs or ()),
        "answers": list(course.answers),
        "stopped": course.stopped or "rounds",
        "saved": 1 + 2 * rounds - course.calls if course.stopped in _DONE else 0,
    }
    return View(
        course.answers[-1],
        text=course.last.text,
        reasoning=_steps(course.last) or None,
        nll=course.last.nll,
        tokens=course.tokens,
        calls=course.calls,
        rounds=course.rounds,
        failure=course.failure,
        more=more,
    )
