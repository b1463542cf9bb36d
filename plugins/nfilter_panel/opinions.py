"""What the reviewers of one row said, in which phase, and the note about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from nfilter import JSON, AgentRun, Fence, Sample, map_strings

Phase = Literal["alone", "exchange", "chair"]
_STEP_CHARACTERS: Final = 300
"""Characters of each text of a step in the note."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """A reply: its answer in canonical form and its text, without the code; or why there is no answer."""

    answer: str | None
    text: str = ""
    reasoning: str | None = None
    failure: str | None = None


@dataclass(slots=True)
class Case:
    """A row before the panel.

    Attributes:
        sample: The row.
        label: Its label in canonical form.
        opinions: The latest opinion of each reviewer, by place; a reviewer who was not asked is absent.
        first: The opinions before the exchange, which all see in it.
        waiting: Places of the reviewers to ask in this phase, in order.
        voted: Places of the reviewers whose opinions count as votes of this phase.
        numbers: The number of each opinion's answer, by place: equal answers have equal numbers; None for no answer.
        steps: What happened, in order, for the note.
    """

    sample: Sample
    label: str | None
    opinions: dict[int, Opinion] = field(default_factory=dict)
    first: dict[int, Opinion] = field(default_factory=dict)
    waiting: list[int] = field(default_factory=list)
    voted: list[int] = field(default_factory=list)
    numbers: dict[int, int | None] = field(default_factory=dict)
    exchanged: bool = False
    chair: Opinion | None = None
    calls: int = 0
    tokens: int = 0
    tool_calls: int = 0
    saved: int = 0
    steps: list[JSON] = field(default_factory=list)

    def count(self, run: AgentRun) -> None:
        """Count the calls and tokens of a reply, whether it was readable or not."""
        self.calls += len(run.turns)
        self.tokens += run.tokens
        self.tool_calls += len(run.steps)

    def record(self, who: str, phase: Phase, opinion: Opinion, run: AgentRun, fence: Fence) -> None:
        """Add a step to the note."""
        step: dict[str, JSON] = {"reviewer": who, "phase": phase, "answer": opinion.answer}
        if opinion.failure is not None:
            step["failure"] = _cut(opinion.failure)
        if run.steps:
            step["turns"] = map_strings(run.to_json(_STEP_CHARACTERS), fence.without)
        else:
            step["text"] = _cut(opinion.text)
        self.steps.append(step)

    def votes(self) -> list[int | None]:
        """Return the votes of this phase."""
        return [self.numbers[place] for place in self.voted]

    def unanimous(self, quorum: int) -> bool:
        """Whether all who answered gave one answer, and enough did."""
        cast = [vote for vote in self.votes() if vote is not None]
        return len(cast) >= quorum and len(set(cast)) == 1


def _cut(text: str) -> str:
    return text if len(text) <= _STEP_CHARACTERS else f"{text[: _STEP_CHARACTERS - 3]}..."
