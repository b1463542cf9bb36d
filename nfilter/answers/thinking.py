"""Answers of any kind in texts that begin with thoughts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from nfilter.answers.thoughts import Thoughts
from nfilter.api.stages import AnswerKind
from nfilter.api.types import Sample


@dataclass(slots=True)
class AfterThoughts:
    """A kind of answer that reads what comes after the thoughts; a thought that never ends is no answer.

    Completions have lost their thoughts before. Responses of a dataset, written by a model that thinks, have not.
    """

    inner: AnswerKind
    thoughts: Thoughts

    kind: str = field(init=False)

    def __post_init__(self) -> None:
        self.kind = self.inner.kind

    def parse(self, text: str, sample: Sample | None = None) -> str | None:
        """The answer in canonical form, or None."""
        cut = self.thoughts.cut(text)
        return None if cut.open else self.inner.parse(cut.text, sample)

    def agree(self, pairs: Sequence[tuple[str | None, str | None]]) -> list[bool]:
        """Whether the two of each pair agree."""
        return self.inner.agree(pairs)

    def options(self, sample: Sample) -> tuple[str, ...] | None:
        """The sample's options."""
        return self.inner.options(sample)
