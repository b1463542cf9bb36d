"""``robustft.review``: the review agent, which decides each flagged sample from several views (RobustFT, Eq. 6)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from nfilter import (
    JSON,
    Calls,
    Completion,
    Context,
    Contract,
    Fence,
    Generates,
    GeneratorName,
    ModelNeed,
    PromptName,
    ReplyTokens,
    Request,
    Retries,
    Sample,
    StageConfig,
    State,
    Temperature,
    View,
)
from nfilter_robustft.answer_format import format_like
from nfilter_robustft.official_preset import apply_official_preset
from nfilter_robustft.settings import Logprobs, Preset
from nfilter_robustft.views import (
    RequestBuilder,
    excerpt,
    is_bare_answer,
    is_flagged,
    read_answer,
    read_fenced_answer,
    reasoning_of,
    verdict_of,
    was_skipped,
    was_weak,
)

_CANDIDATE_CHOICE = re.compile(
    r"[\W_]*(?:(?:final\s)?answer\W{0,4}(?:is\s)?)?(?:the\s)?candidate\s(?:number\s)?#?(\d)"
    r"(?:'s)?(?:\sis\s(?:the\s)?(?:correct|right|better|best)(?:\s\w+)?|\sanswer)?[\W_]*",
    re.IGNORECASE,
)


class ReviewConfig(StageConfig):
    """``views``: the candidates; a view that was skipped or has no answer is not a candidate.

    ``skip_agreed`` adopts, without a call, an answer on which all candidates agree, or the only candidate. The only
    candidate is always adopted if the other views were skipped. Unreadable replies are requested again up to
    ``retries`` times, at the higher of both temperatures. ``write: answer`` writes the canonical answer,
    ``text`` the whole reply, ``auto`` the answer if the old response was a bare answer and the text otherwise.
    ``check`` is the verdict note; with null, every sample is reviewed.

    ``preset: official`` always makes one call of at most 512 tokens at temperature 1, shows bare answers with the names
    of their views, the reasoning first, and writes the bare answer, like the published code. The prompt and the parsing
    of answers are not those of the published code, and samples with an unreadable reply are dropped.
    """

    llm: GeneratorName
    into: str = Field(default="review", description="The note with the decision.")
    views: tuple[str, ...] = Field(
        default=("context", "reasoning"),
        min_length=1,
        description="The views whose answers are the candidates, in the order of the prompt.",
    )
    check: str | None = Field(
        default="check", description="The verdict note that is read; null reviews every sample."
    )
    preset: Preset = "paper"
    prompt: PromptName = "robustft/review"
    max_tokens: ReplyTokens = 1024
    temperature: Temperature = 0.0
    retries: Retries = 2
    retry_temperature: float = Field(
        default=0.7,
        gt=0,
        description="Sampling temperature of repeated requests; the higher of the two temperatures is used.",
    )
    shuffle: bool = Field(default=True, description="Show the candidates in random order.")
    skip_agreed: bool = Field(
        default=True,
        description="Adopt an answer on which all candidates agree, or the only one, without a call.",
    )
    write: Literal["auto", "answer", "text"] = Field(
        default="auto",
        description="What becomes the response: the canonical answer, the text of the reply, or by the form of the old response (auto).",
    )
    logprobs: Logprobs = True

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, value: Any) -> Any:
        return apply_official_preset(
            value,
            views=("reasoning", "context"),
            prompt="robustft/review_answers",
            retries=0,
            shuffle=False,
            skip_agreed=False,
            write="answer",
        )

    @model_validator(mode="after")
    def _views_differ(self) -> ReviewConfig:
        if len(set(self.views)) != len(self.views):
            raise ValueError(f"views: {list(self.views)} contains a view twice")
        return self


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A view with an answer."""

    name: str
    answer: str
    text: str
    reasoning: str | None
    nll: float | None


@dataclass(slots=True)
class _Case:
    """A flagged sample under review; ``candidates`` are in the order of the config's views, ``shown`` in prompt order.

    ``fence`` contains the code required in the answer, if the prompt asks for it.
    """

    sample: Sample
    candidates: list[_Candidate]
    shown: list[_Candidate] = field(default_factory=list)
    fence: Fence | None = None
    attempts: int = 0
    tokens: int = 0
    last: str = ""
    failure: str | None = None
    note: View | None = None
    reason: str = ""

    def adopt(self, chosen: _Candidate, reason: str, saved: int) -> None:
        """Adopt a view without a call."""
        self.reason = f"{reason}, the {chosen.name} view"
        self.note = View(
            chosen.answer,
            text=chosen.text,
            reasoning=chosen.reasoning,
            nll=chosen.nll,
            calls=0,
            more={"choice": chosen.name, "attempts": 0, "saved": saved},
        )

    def give_up(self) -> None:
        """Write the note of a sample without a readable attempt."""
        self.note = View(
            None,
            text=self.last,
            tokens=self.tokens,
            calls=self.attempts,
            failure=self.failure or "no answer could be read",
            more=self.details("none"),
        )

    def details(self, choice: str) -> dict[str, JSON]:
        """Return the keys of the note that describe the review itself."""
        order = [candidate.name for candidate in self.shown]
        return {"choice": choice, "attempts": self.attempts, "order": order}


class Review:
    """Stage that relabels, confirms or drops each flagged sample, with a reason."""

    name: ClassVar[str] = "robustft.review"
    Config: ClassVar[type[StageConfig]] = ReviewConfig

    def __init__(self, config: ReviewConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: ReviewConfig) -> Contract:
        """Return the contract: reads the verdict and the views, writes a view that proposes the label it sets."""
        return Contract(
            reads=frozenset({*config.views, *((config.check,) if config.check else ())}),
            writes=frozenset({config.into}),
            sometimes=frozenset({config.into}),
            views=frozenset({config.into}),
            measures={config.into: {"nll": config.llm} if config.logprobs else {}},
            proposes=frozenset({config.into}),
            prompts=frozenset({config.prompt}),
            needs=(ModelNeed(config.llm, Generates, field="llm"),),
            calls=(
                Calls(
                    config.llm,
                    config.prompt,
                    config.max_tokens,
                    least=0,
                    most=1 + config.retries,
                    usual=0.5 if config.check else 1,
                    rows=2,
                ),
            ),
        )

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        """Adopt answers that need no review, ask about the other samples in one batch, and apply the decisions."""
        cases = {
            sample.id: _Case(sample, self._candidates(sample))
            for sample in chunk
            if is_flagged(sample, self.config.check)
        }
        self._adopt([case for case in cases.values() if case.candidates], ctx)
        self._ask([case for case in cases.values() if case.candidates and case.note is None], ctx)
        labels = [ctx.answers.parse(case.sample.response, case.sample) for case in cases.values()]
        confirmed = ctx.answers.agree(
            [
                (label, None if case.note is None else case.note.answer)
                for label, case in zip(labels, cases.values(), strict=True)
            ]
        )
        decided = {
            case.sample.id: self._decide(case, label, same, ctx)
            for case, label, same in zip(cases.values(), labels, confirmed, strict=True)
        }
        return [decided.get(sample.id) or self._keep(sample) for sample in chunk]

    def _candidates(self, sample: Sample) -> list[_Candidate]:
        candidates = []
        for name in self.config.views:
            view = View.of(sample, name)
            if view is not None and view.answer is not None:
                text = view.text or view.answer
                reasoning = view.reasoning or reasoning_of(text, view.answer)
                candidates.append(_Candidate(name, view.answer, text, reasoning, view.nll))
        return candidates

    def _adopt(self, cases: Sequence[_Case], ctx: Context) -> None:
        """Decide the cases whose candidates leave no choice."""
        several = []
        for case in cases:
            if len(self.config.views) == 1:
                case.adopt(case.candidates[0], "one view and no review", saved=0)
            elif len(case.candidates) == 1:
                if self.config.skip_agreed or self._skipped(case.sample):
                    case.adopt(case.candidates[0], self._single_reason(case.sample), saved=1)
            elif self.config.skip_agreed:
                several.append(case)
        pairs = [
            (case.candidates[0].answer, other.answer)
            for case in several
            for other in case.candidates[1:]
        ]
        same = iter(ctx.answers.agree(pairs))
        for case in several:
            if all([next(same) for _ in case.candidates[1:]]):  # noqa: C419  (consume every pair)
                case.adopt(case.candidates[0], "all views agree", saved=1)

    def _skipped(self, sample: Sample) -> list[str]:
        """Return the views that skipped ``sample``."""
        return [name for name in self.config.views if was_skipped(View.of(sample, name))]

    def _single_reason(self, sample: Sample) -> str:
        skipped = self._skipped(sample)
        without = f" ({', '.join(skipped)}: not asked)" if skipped else ""
        return f"only one view has an answer{without}"

    def _ask(self, cases: Sequence[_Case], ctx: Context) -> None:
        """Ask about all cases, then again about those with an unreadable reply."""
        config = self.config
        if not cases:
            return
        builder = RequestBuilder(
            ctx, ctx.prompt(config.prompt), config.max_tokens, config.temperature, config.logprobs
        )
        model = ctx.model(config.llm)
        for case in cases:
            case.shown = list(case.candidates)
            if config.shuffle:
                ctx.rng(f"{case.sample.id}\x1forder").shuffle(case.shown)
        pending = list(cases)
        for attempt in range(config.retries + 1):
            if not pending:
                break
            temperature = max(config.temperature, config.retry_temperature) if attempt else None
            requests = [self._request(case, builder, attempt, temperature) for case in pending]
            replies = model.generate(requests)
            for case, reply in zip(pending, replies, strict=True):
                self._read(case, reply, ctx)
            pending = [case for case in pending if case.note is None]
        for case in pending:
            case.give_up()

    def _request(
        self, case: _Case, builder: RequestBuilder, attempt: int, temperature: float | None
    ) -> Request:
        candidates = [
            {"name": each.name, "answer": each.answer, "reasoning": each.reasoning}
            for each in case.shown
        ]
        request = builder.request(
            case.sample, draw=attempt, temperature=temperature, candidates=candidates
        )
        fence = builder.fence(case.sample, candidates=candidates)
        asked = fence.asked((message.content for message in request.messages), "Answer")
        case.fence = fence if asked else None
        return request

    def _read(self, case: _Case, reply: Completion, ctx: Context) -> None:
        """Read a reply; leave the case without a note if it has no answer."""
        case.attempts += 1
        case.tokens += reply.completion_tokens
        text = case.fence.without(reply.text) if case.fence else reply.text
        case.last = text
        if case.fence:
            line, answer, case.failure = read_fenced_answer(case.fence, ctx, case.sample, reply)
        else:
            line = text
            answer, case.failure = read_answer(ctx, case.sample, reply, reasoned=True)
        chosen = _chosen_candidate(line, case.shown) if case.failure is None else None
        if chosen is not None:
            answer = chosen.answer
        elif answer is not None:
            same = ctx.answers.agree([(each.answer, answer) for each in case.candidates])
            chosen = next(
                (each for each, is_same in zip(case.candidates, same, strict=True) if is_same), None
            )
        if answer is None:
            return
        case.reason = (
            f"the review chose the {chosen.name} view" if chosen else "the review's own answer"
        )
        case.note = View(
            chosen.answer if chosen else answer,
            text=text,
            reasoning=reasoning_of(text, answer, reply.reasoning),
            nll=reply.nll,
            tokens=case.tokens,
            calls=case.attempts,
            more=case.details(chosen.name if chosen else "own"),
        )

    def _decide(self, case: _Case, label: str | None, confirmed: bool, ctx: Context) -> Sample:
        sample, note = case.sample, case.note
        if note is None:
            reasons = (_missing_reason(name, View.of(sample, name)) for name in self.config.views)
            return sample.drop(f"flagged, and no view has an answer: {'; '.join(reasons)}")
        noted = sample.note(self.config.into, note.to_json())
        answer = note.answer
        if answer is None:
            failure = case.failure or f"no answer in {excerpt(case.last)}"
            return noted.drop(
                f"flagged, and the review is unreadable after {case.attempts} attempts: {failure}"
            )
        retry = "" if case.attempts < 2 else f", at attempt {case.attempts}"
        if confirmed and self.config.write == "auto":
            return noted.keep(f"flagged, and confirmed as {excerpt(answer)}: {case.reason}{retry}")
        change = f"relabelled from {excerpt(label)} to {excerpt(answer)}"
        action = "confirmed" if confirmed else change
        text = self._new_response(case, label, answer, ctx)
        return noted.relabel(text, f"flagged, and {action}: {case.reason}{retry}")

    def _new_response(self, case: _Case, label: str | None, answer: str, ctx: Context) -> str:
        """Return the response to write; ``auto`` keeps the format of the old response."""
        old, write = case.sample.response, self.config.write
        if write == "auto":
            options = ctx.answers.options(case.sample) if ctx.answers.kind == "choice" else None
            formatted = format_like(old.strip(), label, answer, options or ())
            if formatted is not None:
                return formatted
            # A canonical open-ended text is the whole answer without the reasoning before it.
            bare = ctx.answers.kind == "text" or is_bare_answer(old, label)
            write = "answer" if bare else "text"
        if write == "answer":
            return answer
        note = case.note or View(answer)
        choice = note.more.get("choice")
        chosen = next((each for each in case.candidates if each.name == choice), None)
        return chosen.text if chosen is not None else note.text or answer

    def _keep(self, sample: Sample) -> Sample:
        """Keep a sample that is not reviewed, with the votes as the reason."""
        if sample.pinned:
            return sample.keep("pinned by a user: not reviewed")
        verdict = None if self.config.check is None else verdict_of(sample, self.config.check)
        if verdict is None or not verdict.agree:
            return sample.keep("not flagged")
        votes = ("agree", "differ", "no answer", "not asked", "no vote")
        views: dict[str, list[str]] = {vote: [] for vote in votes}
        for name, agrees in verdict.agree.items():
            view = View.of(sample, name)
            if was_weak(view):
                views["no vote"].append(name)
            elif was_skipped(view):
                views["not asked"].append(name)
            elif agrees is None:
                views["no answer"].append(name)
            else:
                views["agree" if agrees else "differ"].append(name)
        if len(views["agree"]) == len(verdict.agree):
            return sample.keep(f"every view agrees with the label: {', '.join(views['agree'])}")
        listed = "; ".join(f"{vote}: {', '.join(names)}" for vote, names in views.items() if names)
        rule = "" if verdict.vote is None else f" (vote {verdict.vote})"
        return sample.keep(f"not flagged{rule}: {listed}")


def _missing_reason(name: str, view: View | None) -> str:
    """Return the reason that a view has no answer."""
    if view is None:
        return f"{name} was not written"
    if was_skipped(view):
        return f"{name} was not asked: {view.skipped}"
    return f"{name}: {view.failure or 'no answer in ' + excerpt(view.text)}"


def _chosen_candidate(text: str, shown: Sequence[_Candidate]) -> _Candidate | None:
    """Return the candidate whose number the last line states ("Candidate 2 is correct."), or None."""
    lines = text.strip()[-500:].splitlines()
    match = _CANDIDATE_CHOICE.fullmatch(lines[-1].strip()) if lines else None
    number = int(match[1]) if match is not None else 0
    return shown[number - 1] if 1 <= number <= len(shown) else None
