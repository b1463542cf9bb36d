"""One flagged sample under review: its candidates, its attempts and its note."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from nfilter import JSON, AgentRun, Completion, Fence, Sample, View, map_strings

_STEP_CHARACTERS: Final = 300
"""Characters of each text of a tool call in the note."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A view with an answer."""

    name: str
    answer: str
    text: str
    reasoning: str | None
    nll: float | None


@dataclass(frozen=True, slots=True)
class Reply:
    """A readable reply: its answer, the candidate that it names, and its text without the code."""

    answer: str
    chosen: Candidate | None
    text: str
    completion: Completion


@dataclass(slots=True)
class Case:
    """A flagged sample under review; ``candidates`` are in the order of the config's views, ``shown`` in prompt order.

    ``fence`` contains the code required in the answer, if the prompt asks for it.
    """

    sample: Sample
    candidates: list[Candidate]
    shown: list[Candidate] = field(default_factory=list)
    fence: Fence | None = None
    attempts: int = 0
    calls: int = 0
    tokens: int = 0
    steps: list[JSON] = field(default_factory=list)
    tool_calls: int = 0
    last: str = ""
    failure: str | None = None
    note: View | None = None
    reason: str = ""

    def adopt(self, chosen: Candidate, reason: str, saved: int) -> None:
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
            calls=self.calls,
            failure=self.failure or "no answer could be read",
            more=self.details("none"),
        )

    def details(self, choice: str) -> dict[str, JSON]:
        """Return the keys of the note that describe the review itself."""
        order = [candidate.name for candidate in self.shown]
        steps: dict[str, JSON] = {"steps": self.steps} if self.steps else {}
        return {"choice": choice, "attempts": self.attempts, "order": order, **steps}

    def count(self, completion: Completion) -> None:
        """Count a call of the model."""
        self.calls += 1
        self.tokens += completion.completion_tokens

    def record(self, run: AgentRun) -> None:
        """Count the calls of an attempt with tools, and keep what was called."""
        for turn in run.turns:
            self.count(turn.completion)
        self.tool_calls += len(run.steps)
        if run.steps:
            shown = run.to_json(_STEP_CHARACTERS)
            self.steps.append(map_strings(shown, self.fence.without) if self.fence else shown)
