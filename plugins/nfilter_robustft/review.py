"""``robustft.review``: the review agent, which decides each flagged sample from several views (RobustFT, Eq. 6)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from nfilter import (
    Agent,
    AgentRun,
    Calls,
    Completion,
    Context,
    Contract,
    GeneratorName,
    PromptName,
    ReplyTokens,
    Request,
    Retries,
    Sample,
    StageConfig,
    State,
    Temperature,
    Tools,
    View,
    excerpt,
    run_agents,
    spelled_in,
)
from nfilter_robustft.answer_format import format_like
from nfilter_robustft.official_preset import apply_official_preset
from nfilter_robustft.review_case import Candidate, Case, Reply
from nfilter_robustft.settings import Logprobs, Preset
from nfilter_robustft.views import (
    RequestBuilder,
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
_RESULT_TOKENS = 16_000 // 3
"""Tokens of the tool results of a turn, for the upper bound of the plan: those of ``Agent.result_characters``."""


class ReviewConfig(StageConfig):
    """``views``: the candidates; a view that was skipped or has no answer is not a candidate.

    ``skip_agreed`` adopts, without a call, an answer on which all candidates agree, or the only candidate. The only
    candidate is always adopted if the other views were skipped. Unreadable replies are requested again up to
    ``retries`` times, at the higher of both temperatures. ``write: answer`` writes the canonical answer,
    ``text`` the whole reply, ``auto`` the answer if the old response was a bare answer and the text otherwise.
    ``check`` is the verdict note; with null, every sample is reviewed.

    ``tools`` are tools that the reviewer may call, for at most ``rounds - 1`` calls of the model; the last one of ``rounds`` has to
    answer. The reviews of a chunk run side by side, and the note has every tool call with its result, shortened.

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
    tools: Tools = Field(
        default=(),
        description="Tools that the reviewer may call, each a name or {use: NAME, ...}; [] for none.",
    )
    rounds: int = Field(
        default=4,
        ge=2,
        le=32,
        description="Calls of the model per attempt with tools, at most, 2 to 32; the last one has to answer.",
    )

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


class Review:
    """Stage that relabels, confirms or drops each flagged sample, with a reason."""

    name: ClassVar[str] = "robustft.review"
    Config: ClassVar[type[StageConfig]] = ReviewConfig

    def __init__(self, config: ReviewConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: ReviewConfig) -> Contract:
        return Contract(
            reads=frozenset({*config.views, *((config.check,) if config.check else ())}),
            writes=frozenset({config.into}),
            sometimes=frozenset({config.into}),
            views=frozenset({config.into}),
            measures={config.into: {"nll": config.llm} if config.logprobs else {}},
            proposes=frozenset({config.into}),
            prompts=frozenset({config.prompt}),
            calls=(
                Calls(
                    config.llm,
                    config.prompt,
                    config.max_tokens,
                    least=0,
                    most=(1 + config.retries) * _most_calls(config),
                    usual=(0.5 if config.check else 1) * (2 if config.tools else 1),
                    rows=2,
                    shows=(_most_calls(config) - 1) * (config.max_tokens + _RESULT_TOKENS),
                ),
            ),
        )

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        """Adopt answers that need no review, ask about the other samples in one batch, and apply the decisions."""
        cases = {
            sample.id: Case(sample, self._candidates(sample))
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

    def _candidates(self, sample: Sample) -> list[Candidate]:
        candidates = []
        for name in self.config.views:
            view = View.of(sample, name)
            if view is not None and view.answer is not None:
                text = view.text or view.answer
                reasoning = view.reasoning or reasoning_of(text, view.answer)
                candidates.append(Candidate(name, view.answer, text, reasoning, view.nll))
        return candidates

    def _adopt(self, cases: Sequence[Case], ctx: Context) -> None:
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

    def _ask(self, cases: Sequence[Case], ctx: Context) -> None:
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
        if config.tools:
            self._ask_agents(cases, builder, ctx)
            return
        pending = list(cases)
        for attempt in range(config.retries + 1):
            if not pending:
                break
            temperature = max(config.temperature, config.retry_temperature) if attempt else None
            requests = [self._request(case, builder, attempt, temperature) for case in pending]
            replies = model.generate(requests)
            for case, reply in zip(pending, replies, strict=True):
                case.count(reply)
                read = self._read(case, reply, ctx)
                if read is not None:
                    self._settle(case, read, ctx)
            pending = [case for case in pending if case.note is None]
        for case in pending:
            case.give_up()

    def _ask_agents(self, cases: Sequence[Case], builder: RequestBuilder, ctx: Context) -> None:
        """Ask about all cases with tools. An unreadable reply is followed by the next attempt, while other reviews go on."""
        config = self.config
        tools = ctx.tools(config.tools)
        read: dict[int, Reply] = {}

        def agent(case: Case) -> Agent:
            temperature = (
                max(config.temperature, config.retry_temperature) if case.attempts else None
            )
            request = self._request(case, builder, case.attempts, temperature)
            shown = [text for each in case.shown for text in (each.answer, each.reasoning or "")]
            return Agent(request, tools, case.sample, tuple(shown), config.rounds, fence=case.fence)

        def again(number: int, run: AgentRun) -> Agent | None:
            case = cases[number]
            case.record(run)
            reply = self._read(case, run.completion, ctx)
            if reply is not None:
                read[number] = reply
            elif case.attempts <= config.retries:
                return agent(case)
            return None

        run_agents(ctx.model(config.llm), [agent(case) for case in cases], again)
        # Answers may be compared by a model, which is not called while the conversations are held.
        for number, case in enumerate(cases):
            if number in read:
                self._settle(case, read[number], ctx)
            else:
                case.give_up()

    def _request(
        self, case: Case, builder: RequestBuilder, attempt: int, temperature: float | None
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

    def _read(self, case: Case, reply: Completion, ctx: Context) -> Reply | None:
        """Read a reply; None if it has no answer."""
        case.attempts += 1
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
        return None if answer is None else Reply(answer, chosen, text, reply)

    def _settle(self, case: Case, read: Reply, ctx: Context) -> None:
        """Write the note of a reply: the candidate with its answer is chosen, unless the reply names one."""
        chosen, answer, reply = read.chosen, read.answer, read.completion
        if chosen is None:
            same = ctx.answers.agree([(each.answer, answer) for each in case.candidates])
            chosen = next(
                (each for each, is_same in zip(case.candidates, same, strict=True) if is_same), None
            )
        plural = "" if case.tool_calls == 1 else "s"
        used = f", with {case.tool_calls} tool call{plural}" if case.tool_calls else ""
        case.reason = (
            f"the review chose the {chosen.name} view" if chosen else "the review's own answer"
        ) + used
        case.note = View(
            chosen.answer if chosen else answer,
            text=read.text,
            reasoning=reasoning_of(read.text, answer, reply.reasoning),
            nll=reply.nll,
            tokens=case.tokens,
            calls=case.calls,
            more=case.details(chosen.name if chosen else "own"),
        )

    def _decide(self, case: Case, label: str | None, confirmed: bool, ctx: Context) -> Sample:
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

    def _new_response(self, case: Case, label: str | None, answer: str, ctx: Context) -> str:
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
        note = case.note or View(answer)
        choice = note.more.get("choice")
        chosen = next((each for each in case.candidates if each.name == choice), None)
        text = chosen.text if chosen is not None else note.text or answer
        if write == "answer":
            return spelled_in(text, answer) if ctx.answers.kind == "exact" else answer
        return text

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


def _most_calls(config: ReviewConfig) -> int:
    """Return the calls of the model per attempt, at most."""
    return config.rounds if config.tools else 1


def _missing_reason(name: str, view: View | None) -> str:
    """Return the reason that a view has no answer."""
    if view is None:
        return f"{name} was not written"
    if was_skipped(view):
        return f"{name} was not asked: {view.skipped}"
    return f"{name}: {view.failure or 'no answer in ' + excerpt(view.text)}"


def _chosen_candidate(text: str, shown: Sequence[Candidate]) -> Candidate | None:
    """Return the candidate whose number the last line states ("Candidate 2 is correct."), or None."""
    lines = text.strip()[-500:].splitlines()
    match = _CANDIDATE_CHOICE.fullmatch(lines[-1].strip()) if lines else None
    number = int(match[1]) if match is not None else 0
    return shown[number - 1] if 1 <= number <= len(shown) else None
