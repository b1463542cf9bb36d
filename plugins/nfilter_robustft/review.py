"""The review agent: one answer for each flagged sample, from several views of it (RobustFT, Eq. 6)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from nfilter import (
    JSON,
    Calls,
    Completion,
    Context,
    Contract,
    Fence,
    Generates,
    ModelNeed,
    Needs,
    Request,
    Sample,
    StageConfig,
    State,
    View,
)
from nfilter_robustft.published import as_published
from nfilter_robustft.views import (
    Asking,
    excerpt,
    is_bare,
    is_flagged,
    read,
    read_behind,
    reasoning_of,
    verdict_of,
    was_skipped,
    was_weak,
)
from nfilter_robustft.wording import in_the_form_of

_PICKED = re.compile(
    r"[\W_]*(?:(?:final\s)?answer\W{0,4}(?:is\s)?)?(?:the\s)?candidate\s(?:number\s)?#?(\d)"
    r"(?:'s)?(?:\sis\s(?:the\s)?(?:correct|right|better|best)(?:\s\w+)?|\sanswer)?[\W_]*",
    re.IGNORECASE,
)


class ReviewConfig(StageConfig):
    """Who reviews which ``views``, and what is written where the review changes a label.

    A view that was skipped or has no answer is no candidate.
    ``skip_agreed`` adopts without a call what all views with an answer agree on, the only one of them too, which is
    adopted in any case where the others were skipped. A reply that cannot be read is
    asked again ``retries`` times, at ``retry_temperature`` or the usual one, whichever is higher. ``write``:
    ``answer`` writes the canonical answer, ``text`` the whole reply behind it, ``auto`` the answer where the old
    response was just an answer and the text otherwise. ``check`` is the verdict note; null does without one.

    ``preset: official`` always asks, once, for at most 512 tokens at temperature 1; it shows bare answers with the names
    of their views, the reasoning first, and writes the answer alone, as the published code does. The prompt and how an
    answer is read are not the published ones, and what cannot be read is dropped.
    """

    llm: Annotated[str, Needs(Generates)]
    into: str = "review"
    views: tuple[str, ...] = Field(default=("context", "reasoning"), min_length=1)
    check: str | None = "check"
    preset: Literal["paper", "official"] = "paper"
    prompt: str = "robustft/review"
    max_tokens: int = Field(default=1024, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    retries: int = Field(default=2, ge=0, le=16)
    retry_temperature: float = Field(default=0.7, gt=0)
    shuffle: bool = True
    skip_agreed: bool = True
    write: Literal["auto", "answer", "text"] = "auto"
    logprobs: bool = True

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, value: Any) -> Any:
        return as_published(
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
            raise ValueError(f"views: {list(self.views)} names a view twice")
        return self


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A view that has an answer."""

    name: str
    answer: str
    text: str
    reasoning: str | None
    nll: float | None


@dataclass(slots=True)
class _Case:
    """One flagged sample under review; ``candidates`` are in the order of the config's views.

    ``fence`` is the code that its answer has to carry, where the prompt asks for it.
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
    because: str = ""

    def adopt(self, chosen: _Candidate, because: str, saved: int) -> None:
        """Settle on a view without a call."""
        self.because = f"{because}, the {chosen.name} view"
        self.note = View(
            chosen.answer,
            text=chosen.text,
            reasoning=chosen.reasoning,
            nll=chosen.nll,
            calls=0,
            more={"choice": chosen.name, "attempts": 0, "saved": saved},
        )

    def give_up(self) -> None:
        """No attempt could be read."""
        self.note = View(
            None,
            text=self.last,
            tokens=self.tokens,
            calls=self.attempts,
            failure=self.failure or "no answer could be read",
            more=self.review("none"),
        )

    def review(self, choice: str) -> dict[str, JSON]:
        """What the note says of the review itself."""
        order = [candidate.name for candidate in self.shown]
        return {"choice": choice, "attempts": self.attempts, "order": order}


class Review:
    """Decides each flagged sample: relabels it, confirms its label, or drops it, always with the reason."""

    name: ClassVar[str] = "robustft.review"
    Config: ClassVar[type[StageConfig]] = ReviewConfig

    def __init__(self, config: ReviewConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: ReviewConfig) -> Contract:
        """Reads the verdict and the views; its note is a view that proposes the label it sets."""
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
        """Adopt what needs no review, ask about the rest together, then write what came out."""
        cases = {
            sample.id: _Case(sample, self._candidates(sample))
            for sample in chunk
            if is_flagged(sample, self.config.check)
        }
        self._adopt([case for case in cases.values() if case.candidates], ctx)
        open_cases = [case for case in cases.values() if case.candidates and case.note is None]
        self._ask(open_cases, ctx)
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
        return [decided.get(sample.id) or self._trust(sample) for sample in chunk]

    def _candidates(self, sample: Sample) -> list[_Candidate]:
        found = []
        for name in self.config.views:
            view = View.of(sample, name)
            if view is not None and view.answer is not None:
                text = view.text or view.answer
                reasoning = view.reasoning or reasoning_of(text, view.answer)
                found.append(_Candidate(name, view.answer, text, reasoning, view.nll))
        return found

    def _adopt(self, cases: Sequence[_Case], ctx: Context) -> None:
        """Settle the cases in which there is nothing to choose between."""
        several = []
        for case in cases:
            if len(self.config.views) == 1:
                case.adopt(case.candidates[0], "one view and no review", saved=0)
            elif len(case.candidates) == 1:
                if self.config.skip_agreed or self._skipped(case.sample):
                    case.adopt(case.candidates[0], self._alone(case.sample), saved=1)
            elif self.config.skip_agreed:
                several.append(case)
        pairs = [
            (case.candidates[0].answer, other.answer)
            for case in several
            for other in case.candidates[1:]
        ]
        same = iter(ctx.answers.agree(pairs))
        for case in several:
            if all([next(same) for _ in case.candidates[1:]]):  # noqa: C419  (each takes its turn)
                case.adopt(case.candidates[0], "all views agree", saved=1)

    def _skipped(self, sample: Sample) -> list[str]:
        """The views that were not asked, since another one decides."""
        return [name for name in self.config.views if was_skipped(View.of(sample, name))]

    def _alone(self, sample: Sample) -> str:
        skipped = self._skipped(sample)
        without = f" ({', '.join(skipped)}: not asked)" if skipped else ""
        return f"only one view has an answer{without}"

    def _ask(self, cases: Sequence[_Case], ctx: Context) -> None:
        """Ask about all open cases, then again about those whose reply could not be read."""
        config = self.config
        if not cases:
            return
        asking = Asking(
            ctx, ctx.prompt(config.prompt), config.max_tokens, config.temperature, config.logprobs
        )
        model = ctx.model(config.llm)
        for case in cases:
            case.shown = list(case.candidates)
            if config.shuffle:
                ctx.rng(f"{case.sample.id}\x1forder").shuffle(case.shown)
        going = list(cases)
        for attempt in range(config.retries + 1):
            if not going:
                break
            warmth = max(config.temperature, config.retry_temperature) if attempt else None
            requests = [self._request(case, asking, attempt, warmth) for case in going]
            replies = model.generate(requests)
            for case, reply in zip(going, replies, strict=True):
                self._read(case, reply, ctx)
            going = [case for case in going if case.note is None]
        for case in going:
            case.give_up()

    def _request(self, case: _Case, asking: Asking, attempt: int, warmth: float | None) -> Request:
        shown = [
            {"name": each.name, "answer": each.answer, "reasoning": each.reasoning}
            for each in case.shown
        ]
        request = asking.request(case.sample, draw=attempt, temperature=warmth, candidates=shown)
        fence = asking.fence(case.sample, candidates=shown)
        asked = fence.asked((message.content for message in request.messages), "Answer")
        case.fence = fence if asked else None
        return request

    def _read(self, case: _Case, reply: Completion, ctx: Context) -> None:
        case.attempts += 1
        case.tokens += reply.completion_tokens
        text = case.fence.without(reply.text) if case.fence else reply.text
        case.last = text
        if case.fence:
            said, answer, case.failure = read_behind(case.fence, ctx, case.sample, reply)
        else:
            said = text
            answer, case.failure = read(ctx, case.sample, reply, reasoned=True)
        chosen = _picked(said, case.shown) if case.failure is None else None
        if chosen is not None:
            answer = chosen.answer
        elif answer is not None:
            same = ctx.answers.agree([(each.answer, answer) for each in case.candidates])
            chosen = next(
                (each for each, is_same in zip(case.candidates, same, strict=True) if is_same), None
            )
        if answer is None:
            return
        case.because = f"the review chose the {chosen.name} view" if chosen else "the review's own"
        case.note = View(
            chosen.answer if chosen else answer,
            text=text,
            reasoning=reasoning_of(text, answer, reply.reasoning),
            nll=reply.nll,
            tokens=case.tokens,
            calls=case.attempts,
            more=case.review(chosen.name if chosen else "own"),
        )

    def _decide(self, case: _Case, label: str | None, confirmed: bool, ctx: Context) -> Sample:
        sample, note = case.sample, case.note
        if note is None:
            why = "; ".join(_lack(name, View.of(sample, name)) for name in self.config.views)
            return sample.drop(f"flagged, and no view has an answer: {why}")
        noted = sample.note(self.config.into, note.to_json())
        answer = note.answer
        if answer is None:
            what = case.failure or f"no answer in {excerpt(case.last)}"
            return noted.drop(
                f"flagged, and the review could not be read in {case.attempts} attempts: {what}"
            )
        again = "" if case.attempts < 2 else f", at attempt {case.attempts}"
        if confirmed and self.config.write == "auto":
            return noted.keep(f"flagged, and confirmed as {excerpt(answer)}: {case.because}{again}")
        how = "confirmed" if confirmed else f"relabelled from {excerpt(label)} to {excerpt(answer)}"
        text = self._text(case, label, answer, ctx)
        return noted.relabel(text, f"flagged, and {how}: {case.because}{again}")

    def _text(self, case: _Case, label: str | None, answer: str, ctx: Context) -> str:
        """What to write as the response: ``auto`` keeps to the form that the old response had."""
        old, how = case.sample.response, self.config.write
        if how == "auto":
            options = ctx.answers.options(case.sample) if ctx.answers.kind == "choice" else None
            spelled = in_the_form_of(old.strip(), label, answer, options or ())
            if spelled is not None:
                return spelled
            # Canonical open-ended text is the whole answer without the reasoning before it.
            how = "answer" if ctx.answers.kind == "text" or is_bare(old, label) else "text"
        if how == "answer":
            return answer
        note = case.note or View(answer)
        choice = note.more.get("choice")
        chosen = next((each for each in case.candidates if each.name == choice), None)
        return chosen.text if chosen is not None else note.text or answer

    def _trust(self, sample: Sample) -> Sample:
        if sample.pinned:
            return sample.keep("pinned by a person: not reviewed")
        verdict = None if self.config.check is None else verdict_of(sample, self.config.check)
        if verdict is None or not verdict.agree:
            return sample.keep("not flagged")
        agree = verdict.agree
        by: dict[str, list[str]] = {
            "agree": [],
            "differ": [],
            "no answer": [],
            "not asked": [],
            "no vote": [],
        }
        for name, agrees in agree.items():
            word = "agree" if agrees is True else "differ" if agrees is False else "no answer"
            view = View.of(sample, name)
            by["no vote" if was_weak(view) else "not asked" if was_skipped(view) else word].append(
                name
            )
        if len(by["agree"]) == len(agree):
            return sample.keep(f"every view agrees with the label: {', '.join(by['agree'])}")
        said = "; ".join(f"{word}: {', '.join(names)}" for word, names in by.items() if names)
        vote = "" if verdict.vote is None else f" (vote {verdict.vote})"
        return sample.keep(f"not flagged{vote}: {said}")


def _lack(name: str, view: View | None) -> str:
    if view is None:
        return f"{name} was not written"
    if was_skipped(view):
        return f"{name} was not asked: {view.skipped}"
    return f"{name}: {view.failure or 'no answer in ' + excerpt(view.text)}"


def _picked(text: str, shown: Sequence[_Candidate]) -> _Candidate | None:
    """The candidate that a reply names by its number alone on its last line ("Candidate 2 is correct.")."""
    lines = text.strip()[-500:].splitlines()
    match = _PICKED.fullmatch(lines[-1].strip()) if lines else None
    number = int(match[1]) if match is not None else 0
    return shown[number - 1] if 1 <= number <= len(shown) else None
