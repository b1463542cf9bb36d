"""Requests to reviewers and the chair, and the reading of their replies."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nfilter import (
    Agent,
    AgentRun,
    Completion,
    Context,
    Fence,
    Request,
    Sample,
    Sampling,
    View,
    question_variables,
    run_agents,
)
from nfilter_panel.config import ChairConfig, PanelConfig, ReviewerConfig
from nfilter_panel.opinions import Case, Opinion, Phase

_SIGN = re.compile(r"[^\W_]")
CHAIR = "chair"


@dataclass(frozen=True, slots=True)
class Seat:
    """Who is asked about which row in which phase: a reviewer by place, or the chair (``place`` -1)."""

    case: Case
    place: int
    phase: Phase


class Asking:
    """Asks the members of a panel, side by side."""

    def __init__(self, config: PanelConfig, ctx: Context) -> None:
        self._config = config
        self._ctx = ctx

    def ask(self, seats: Sequence[Seat]) -> None:
        """Ask each seat once; unreadable replies are requested again. Opinions and steps go to the cases, in the order of seats."""
        attempts = [0] * len(seats)
        asked = [self._asked(seat, 0) for seat in seats]
        heard: list[list[tuple[Opinion, AgentRun, Fence]]] = [[] for _ in seats]

        def again(number: int, run: AgentRun) -> Agent | None:
            seat, (_, fence) = seats[number], asked[number]
            seat.case.count(run)
            opinion = self._read(seat.case.sample, run.completion, fence)
            heard[number].append((opinion, run, fence))
            if opinion.answer is None and attempts[number] < self._config.retries:
                attempts[number] += 1
                asked[number] = self._asked(seat, attempts[number])
                return asked[number][0]
            return None

        names = [self._member(seat).llm for seat in seats]
        models = {name: self._ctx.model(name) for name in names}
        run_agents([models[name] for name in names], [agent for agent, _ in asked], again)
        for number, seat in enumerate(seats):
            self._take(seat, heard[number])

    def _take(self, seat: Seat, attempts: Sequence[tuple[Opinion, AgentRun, Fence]]) -> None:
        case = seat.case
        who = CHAIR if seat.phase == "chair" else self._config.names[seat.place]
        for opinion, run, fence in attempts:
            case.record(who, seat.phase, opinion, run, fence)
        if seat.phase == "chair":
            case.chair = opinion
        elif opinion.answer is not None or seat.phase == "alone":
            # After an unreadable reply in the exchange, the first answer stands.
            case.opinions[seat.place] = opinion

    def _member(self, seat: Seat) -> ReviewerConfig | ChairConfig:
        if seat.phase == "chair":
            assert self._config.chair is not None
            return self._config.chair
        return self._config.reviewers[seat.place]

    def _asked(self, seat: Seat, attempt: int) -> tuple[Agent, Fence]:
        """Return the agent of an attempt, and the fence of its prompt."""
        config, member, sample = self._config, self._member(seat), seat.case.sample
        temperature = config.temperature
        if attempt:
            temperature = max(temperature, config.retry_temperature)
        seed = 0
        if temperature > 0:
            key = f"{sample.id}\x1f{seat.phase}\x1f{seat.place}\x1f{attempt}"
            seed = self._ctx.rng(key).getrandbits(31)
        shown = self._shown(seat)
        variables = {**question_variables(sample, self._ctx.answers), **shown}
        fence = Fence.around(sample.id, variables)
        prompt = config.exchange_prompt if seat.phase == "exchange" else member.prompt
        messages = self._ctx.prompt(prompt).render(
            **variables, instructions=member.instructions, fence=fence.code
        )
        request = Request(
            messages,
            Sampling(max_tokens=config.max_tokens, temperature=temperature, seed=seed),
            sample_id=sample.id,
            draw=attempt,
        )
        texts = tuple(text for each in shown.values() for text in _texts(each))
        tools = self._ctx.tools(member.tools)
        return Agent(request, tools, sample, texts, config.rounds, fence=fence), fence

    def _shown(self, seat: Seat) -> dict[str, Any]:
        """Return what a member sees beside the question: answers without names, in an order of its own."""
        case, sample = seat.case, seat.case.sample
        rng = self._ctx.rng(f"{sample.id}\x1forder\x1f{seat.phase}\x1f{seat.place}")
        candidates = [
            {"answer": view.answer, "reasoning": self._cut(view.reasoning)}
            for view in (View.of(sample, name) for name in self._config.views)
            if view is not None and view.answer is not None
        ]
        rng.shuffle(candidates)
        shown: dict[str, Any] = {"candidates": candidates, "own": None, "others": []}
        if seat.phase != "alone":
            known = case.first if seat.phase == "exchange" else case.opinions
            others = [
                self._stated(each) for place, each in sorted(known.items()) if place != seat.place
            ]
            rng.shuffle(others)
            shown["others"] = others
        if seat.phase == "exchange":
            shown["own"] = self._stated(case.first[seat.place])
        return shown

    def _stated(self, opinion: Opinion) -> dict[str, str | None]:
        return {"answer": opinion.answer, "reasoning": self._cut(opinion.reasoning)}

    def _cut(self, text: str | None) -> str | None:
        most = self._config.reason_characters
        return text if text is None or len(text) <= most else f"{text[:most]}..."

    def _read(self, sample: Sample, reply: Completion, fence: Fence) -> Opinion:
        """Read the answer behind the code; other text, such as an echo of the data, does not count."""
        text = fence.without(reply.text)
        if reply.incomplete is not None:
            return Opinion(None, text, failure=reply.incomplete)
        stated = fence.behind(reply.text, "Answer")
        if stated is None:
            failure = "no line states the answer" if _SIGN.search(text) else "the reply is empty"
            return Opinion(None, text, failure=failure)
        if self._ctx.answers.kind != "text":
            stated = stated.strip().split("\n", 1)[0]
        answer = self._ctx.answers.parse(f"Answer: {stated}", sample)
        if answer is None:
            return Opinion(None, text, failure="the answer cannot be read")
        return Opinion(answer, text, _reasons(text, reply.reasoning))


def _reasons(text: str, thoughts: str | None) -> str | None:
    """Return the text, or the thoughts before it if it is only one line."""
    return text.strip() if "\n" in text.strip() else thoughts


def _texts(value: Any) -> list[str]:
    """Return all texts in lists and mappings."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for each in value.values() for text in _texts(each)]
    return [text for each in value for text in _texts(each)] if isinstance(value, list) else []
