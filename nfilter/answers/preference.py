"""Preference pairs: the answer says which of the two responses is preferred."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from nfilter.api.types import Sample

LETTERS: Final = ("A", "B")


@dataclass(slots=True)
class Preference:
    """The letter of one of the two responses of a pair.

    A is the response whose text sorts first, B the other one, so that the letters do not depend on which of them is
    chosen. The label of a pair is the letter of its chosen response.
    """

    kind: str = field(default="preference", init=False)

    def parse(self, text: str, sample: Sample | None = None) -> str | None:
        """Return the letter of the response with this text; None for another text, or for a sample that is no pair."""
        options = self.options(sample) if sample is not None else None
        for wanted, known in ((text, options or ()), (text.strip(), _stripped(options))):
            if known.count(wanted) == 1:
                return LETTERS[known.index(wanted)]
        return None

    def agree(self, pairs: Sequence[tuple[str | None, str | None]]) -> list[bool]:
        """Whether both are the same response."""
        return [left is not None and left == right for left, right in pairs]

    def options(self, sample: Sample) -> tuple[str, ...] | None:
        """The texts of the two responses, A first; None for a sample that is no pair."""
        if sample.rejected is None:
            return None
        return tuple(sorted((sample.response, sample.rejected.content)))


def _stripped(options: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(option.strip() for option in options or ())
