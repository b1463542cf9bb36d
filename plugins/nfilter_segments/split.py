"""Divide the tokens of a response into segments of reasoning and the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nfilter import MARKS, IntArray, TokenSample

_RUN = re.compile(r"\n\s*+")
_CLOSING = re.compile("|".join(re.escape(closing) for _, closing in MARKS), re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Parts:
    """Positions in a token sample: the tokens of each segment of the reasoning, in order, and those of the answer."""

    segments: tuple[IntArray, ...]
    answer: IntArray

    @property
    def reasoning(self) -> IntArray:
        """The positions of all segments."""
        return np.concatenate([np.zeros(0, dtype=np.int64), *self.segments])


def split(sample: TokenSample, words: Sequence[str]) -> Parts:
    """Divide the last assistant turn of ``sample``; a token belongs to the part that its first character is in.

    The reasoning ends at the last closing mark such as ``</think>``, which is in neither part, and the answer follows. Without
    a mark the answer is the last line with text. A segment begins at a blank line before one of ``words``, upper or lower
    case. A sample that ``max_length`` cut has no parts, because the answer may be missing.
    """
    at = np.flatnonzero(sample.response).astype(np.int64)
    if len(at):
        at = at[sample.turn[at] == sample.turn[at[-1]]]
    if not len(at) or sample.cut.any():
        return Parts((), at[:0])
    first = int(sample.spans[at[0], 0])
    text = sample.text[first : int(sample.spans[at, 1].max())]
    starts = sample.spans[at, 0] - first
    end, answer = _reasoning_end(text)
    opening = re.compile(rf"(?:{'|'.join(re.escape(word) for word in words)})(?!\w)", re.IGNORECASE)
    cuts = [
        run.start()
        for run in _RUN.finditer(text, 0, end)
        if run.group().count("\n") > 1 and opening.match(text, run.end(), end)
    ]
    numbers = np.searchsorted(np.array(cuts, dtype=np.int64), starts, side="right")
    reasoning = starts < end
    found = (at[reasoning & (numbers == number)] for number in range(len(cuts) + 1))
    return Parts(tuple(part for part in found if len(part)), at[starts >= answer])


def _reasoning_end(text: str) -> tuple[int, int]:
    """Return where the reasoning ends and where the answer begins."""
    closing = None
    for closing in _CLOSING.finditer(text):  # noqa: B007 (the last one is meant)
        pass
    if closing is not None:
        return closing.start(), closing.end()
    line = text.rfind("\n", 0, len(text.rstrip())) + 1
    return line, line
