"""``panel.review``: several reviewers judge a row independently, exchange reasons once, and vote or have a chair decide."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from nfilter import (
    JSON,
    Calls,
    Context,
    Contract,
    ContractError,
    Sample,
    StageConfig,
    State,
    Verdict,
    View,
    excerpt,
    spelled_in,
)
from nfilter_panel.asking import Asking, Seat
from nfilter_panel.config import ChairConfig, PanelConfig, ReviewerConfig
from nfilter_panel.opinions import Case, Opinion, Phase
from nfilter_panel.votes import Standing, grouped, standing

_CHARACTERS_PER_TOKEN = 3
_RESULT_TOKENS = 16_000 // _CHARACTERS_PER_TOKEN
"""Tokens of the tool results of a turn, for the upper bound of the plan: those of ``Agent.result_characters``."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What the panel decided, by which rule, and why; ``opinion`` is None without a decision."""

    opinion: Opinion | None
    rule: str
    why: str


class Review:
    """Stage in which a panel of reviewers answers each question, and relabels, confirms or flags its label.

    The reviewers answer independently and without the label. Those of a row that disagree see each other's answers and
    reasons once, without names, and answer again. Then they vote, or a chair decides. A vote ends when no further one
    can change it. The note is a view, a verdict and a proposal, and has every step.
    """

    name: ClassVar[str] = "panel.review"
    Config: ClassVar[type[StageConfig]] = PanelConfig

    def __init__(self, config: PanelConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: PanelConfig) -> Contract:
        prompts = {each.prompt for each in config.reviewers}
        prompts |= {config.exchange_prompt} if config.exchange else set()
        prompts |= {config.chair.prompt} if config.chair else set()
        into = frozenset({config.into})
        return Contract(
            reads=frozenset({*config.views, *((config.check,) if config.check else ())}),
            writes=into,
            sometimes=into,
            views=into,
            verdicts=into,
            proposes=into,
            prompts=frozenset(prompts),
            measures={config.into: {}},
            calls=tuple(_calls(config)),
        )

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        """Ask the panel about the rows of the chunk, side by side, phase by phase, and apply its decisions."""
        shown = [sample for sample in chunk if not sample.pinned and self._is_asked(sample)]
        labels = [ctx.answers.parse(sample.response, sample) for sample in shown]
        cases = [Case(sample, label) for sample, label in zip(shown, labels, strict=True)]
        panel = _Panel(self.config, ctx)
        outcomes = panel.decide(cases)
        confirmed = ctx.answers.agree(
            [
                (case.label, outcome.opinion.answer if outcome.opinion else None)
                for case, outcome in zip(cases, outcomes, strict=True)
            ]
        )
        votes = panel.agreement(cases)
        decided = {
            case.sample.id: self._decided(case, outcome, same, agree, ctx)
            for case, outcome, same, agree in zip(cases, outcomes, confirmed, votes, strict=True)
        }
        return [decided.get(sample.id) or self._kept(sample) for sample in chunk]

    def _is_asked(self, sample: Sample) -> bool:
        check = self.config.check
        if check is None:
            return True
        verdict = Verdict.of(sample, check)
        if verdict is None:
            raise ContractError(
                f"sample {sample.id!r} has no verdict in note {check!r}; put the stage that writes it before this one, or "
                "set check: null"
            )
        return verdict.flagged

    def _kept(self, sample: Sample) -> Sample:
        pinned = "pinned by a user: not reviewed"
        return sample.keep(pinned if sample.pinned else "not flagged: not reviewed")

    def _decided(
        self,
        case: Case,
        outcome: _Outcome,
        confirmed: bool,
        agree: Mapping[int, bool],
        ctx: Context,
    ) -> Sample:
        plural = "" if case.tool_calls == 1 else "s"
        used = f", with {case.tool_calls} tool call{plural}" if case.tool_calls else ""
        why = f"{outcome.why}{used}"
        noted = case.sample.note(
            self.config.into, self._note(case, outcome, agree, flagged=not confirmed)
        )
        if outcome.opinion is None or outcome.opinion.answer is None:
            if self.config.undecided == "drop":
                return noted.drop(f"the panel made no decision: {why}")
            return noted.keep(f"flagged and kept with its label; the panel made no decision: {why}")
        answer = outcome.opinion.answer
        if confirmed:
            return noted.keep(f"confirmed as {excerpt(answer)}: {why}")
        if self.config.write == "nothing":
            return noted.keep(f"flagged: the panel answers {excerpt(answer)}: {why}")
        text = self._response(case, outcome.opinion, answer, ctx)
        return noted.relabel(
            text, f"relabelled from {excerpt(case.label)} to {excerpt(answer)}: {why}"
        )

    def _response(self, case: Case, opinion: Opinion, answer: str, ctx: Context) -> str:
        """Return the response to write; ``auto`` changes only the answer in a response that is little more."""
        write, old, label = self.config.write, case.sample.response.strip(), case.label
        if ctx.answers.kind == "exact":
            answer, label = spelled_in(opinion.text, answer), spelled_in(old, label or "")
        if write == "auto":
            bare = "\n" not in old and len(old.split()) <= len((label or "").split()) + 2
            write = "answer" if bare or ctx.answers.kind == "text" else "text"
            if bare and label and ctx.answers.kind != "text":
                pattern = rf"(?<!\w){re.escape(label)}(?!\w)"
                if len(re.findall(pattern, old)) == 1:
                    return re.sub(pattern, lambda _: answer, old)
        return opinion.text if write == "text" else answer

    def _note(
        self, case: Case, outcome: _Outcome, agree: Mapping[int, bool], *, flagged: bool
    ) -> JSON:
        config, opinion = self.config, outcome.opinion
        against = len(agree) - sum(agree.values())
        answers: dict[str, JSON] = {
            config.names[place]: each.answer for place, each in sorted(case.opinions.items())
        }
        view = View(
            opinion.answer if opinion else None,
            text=opinion.text if opinion else "",
            reasoning=opinion.reasoning if opinion else None,
            tokens=case.tokens,
            calls=case.calls,
            rounds=int(case.exchanged),
            failure=None if opinion else f"no decision: {outcome.why}",
            more={
                "flagged": flagged,
                "noise_score": against / len(agree) if agree else 0.5,
                "agree": {config.names[place]: agree.get(place) for place in sorted(case.opinions)},
                "vote": outcome.rule,
                "answers": answers,
                "saved": case.saved,
                "steps": case.steps,
            },
        )
        return view.to_json()


class _Panel:
    """Holds the phases of a panel for the rows of one chunk."""

    def __init__(self, config: PanelConfig, ctx: Context) -> None:
        self._config = config
        self._ctx = ctx
        self._asking = Asking(config, ctx)

    def decide(self, cases: Sequence[Case]) -> list[_Outcome]:
        """Return the outcome of each row."""
        config = self._config
        # With an exchange or a chair, every first answer can change what follows.
        self._phase(cases, "alone", everyone=config.exchange or config.decide == "chair")
        if config.exchange:
            split = [case for case in cases if not case.unanimous(config.quorum)]
            for case in cases:
                case.exchanged = case in split and any(
                    each.answer for each in case.opinions.values()
                )
                case.first = dict(case.opinions)
            split = [case for case in split if case.exchanged]
            self._phase(split, "exchange", everyone=config.decide == "chair")
            for case in cases:
                case.saved += 0 if case.exchanged else len(config.reviewers)
        if config.decide == "chair":
            return self._chaired(cases)
        return [self._voted(case) for case in cases]

    def _phase(self, cases: Sequence[Case], phase: Phase, *, everyone: bool) -> None:
        """Ask the reviewers of each row; unless ``everyone``, only as long as a vote can change the outcome."""
        count = len(self._config.reviewers)
        for case in cases:
            case.waiting, case.voted = list(range(count)), []
            self._ctx.rng(f"{case.sample.id}\x1fseats\x1f{phase}").shuffle(case.waiting)
        going = list(cases)
        while going:
            seats = []
            for case in going:
                ask = len(case.waiting) if everyone else self._standing(case).ask
                now, case.waiting = case.waiting[:ask], case.waiting[ask:]
                case.voted += now
                seats += [Seat(case, place, phase) for place in now]
            self._asking.ask(seats)
            self._number(going)
            going = [case for case in going if case.waiting and not self._standing(case).final]
        for case in cases:
            case.saved += len(case.waiting)

    def _standing(self, case: Case) -> Standing:
        return standing(case.votes(), len(case.waiting), self._config.quorum)

    def _number(self, cases: Sequence[Case]) -> None:
        """Give equal answers of a row equal numbers; all rows are compared in one call."""
        placed = [
            [(place, each.answer) for place, each in sorted(case.opinions.items())]
            for case in cases
        ]
        pairs = [
            (answer, other)
            for answers in placed
            for number, (_, answer) in enumerate(answers)
            for _, other in answers[:number]
        ]
        same = iter(self._ctx.answers.agree(pairs))
        for case, answers in zip(cases, placed, strict=True):
            rows = [[next(same) for _ in answers[:number]] for number in range(len(answers))]
            case.numbers = {
                place: None if answer is None else number
                for (place, answer), number in zip(answers, grouped(rows), strict=True)
            }

    def _voted(self, case: Case) -> _Outcome:
        """Return the outcome of a vote."""
        votes = case.votes()
        cast = [vote for vote in votes if vote is not None]
        more = " after the exchange" if case.exchanged else ""
        if missing := votes.count(None):
            more += f", {missing} without an answer"
        if case.waiting:
            more += f", {len(case.waiting)} not asked, who could not change that"
        if case.unanimous(self._config.quorum) and not case.waiting:
            why = f"all {len(cast)} votes agree{more}"
            return _Outcome(self._holder(case, cast[0]), "unanimous", why)
        winner = self._standing(case).winner
        if winner is not None:
            why = f"{cast.count(winner)} of {len(cast)} votes{more}"
            return _Outcome(self._holder(case, winner), "majority", why)
        if len(cast) < self._config.quorum:
            return _Outcome(None, "no quorum", f"{len(cast)} of {self._config.quorum} votes{more}")
        return _Outcome(None, "no majority", f"{self._counts(case)}{more}")

    def _chaired(self, cases: Sequence[Case]) -> list[_Outcome]:
        """Return the outcomes with a chair, who is asked about the rows on which the reviewers disagree."""
        quorum = self._config.quorum
        split = [case for case in cases if not case.unanimous(quorum)]
        heard = [case for case in split if any(each.answer for each in case.opinions.values())]
        self._asking.ask([Seat(case, -1, "chair") for case in heard])
        for case in cases:
            case.saved += 0 if case in heard else 1
        return [self._chair_outcome(case) for case in cases]

    def _chair_outcome(self, case: Case) -> _Outcome:
        if case.chair is None:
            return self._voted(case)
        if case.chair.answer is None:
            return _Outcome(
                None, "no decision", f"the chair: {case.chair.failure}; {self._counts(case)}"
            )
        return _Outcome(case.chair, "chair", f"the chair decided; {self._counts(case)}")

    def _holder(self, case: Case, number: int) -> Opinion:
        """Return the opinion of the first reviewer with an answer."""
        return next(
            case.opinions[place] for place in sorted(case.voted) if case.numbers[place] == number
        )

    def _counts(self, case: Case) -> str:
        """Return the votes by answer, most first."""
        votes = [vote for vote in case.votes() if vote is not None]
        order = sorted(set(votes), key=lambda vote: (-votes.count(vote), vote))
        return ", ".join(
            f"{excerpt(self._holder(case, vote).answer, 30)} {votes.count(vote)}" for vote in order
        )

    def agreement(self, cases: Sequence[Case]) -> list[dict[int, bool]]:
        """Return for each row whether each vote agrees with the label, by the place of the reviewer."""
        placed = [
            [place for place in sorted(case.voted) if case.numbers[place] is not None]
            for case in cases
        ]
        pairs = [
            (case.label, case.opinions[place].answer)
            for case, places in zip(cases, placed, strict=True)
            for place in places
        ]
        same = iter(self._ctx.answers.agree(pairs))
        return [{place: next(same) for place in places} for places in placed]


def _calls(config: PanelConfig) -> Iterator[Calls]:
    """Yield the expected calls: first answers, the exchange, the chair."""
    rows = 0.5 if config.check else 1.0
    reasons = config.reason_characters // _CHARACTERS_PER_TOKEN
    count = len(config.reviewers)
    fewest = count if config.exchange or config.decide == "chair" else count // 2 + 1
    for place, each in enumerate(config.reviewers):
        surely = place < fewest
        least = 1 if surely and config.check is None else 0
        usual = rows if surely else rows / 2
        yield _call(config, each, each.prompt, usual, len(config.views) * reasons, least)
        if config.exchange:
            shows = (len(config.views) + count) * reasons
            yield _call(config, each, config.exchange_prompt, 0.3 * rows, shows)
    if config.chair is not None:
        shows = (len(config.views) + count) * reasons
        yield _call(config, config.chair, config.chair.prompt, 0.2 * rows, shows)


def _call(
    config: PanelConfig,
    member: ReviewerConfig | ChairConfig,
    prompt: str,
    usual: float,
    shows: int,
    least: float = 0,
) -> Calls:
    rounds = config.rounds if member.tools else 1
    return Calls(
        member.llm,
        prompt,
        config.max_tokens,
        least=least,
        usual=usual * (2 if member.tools else 1),
        most=(1 + config.retries) * rounds,
        shows=shows + (rounds - 1) * (config.max_tokens + _RESULT_TOKENS),
    )
