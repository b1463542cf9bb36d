"""The record of one row that `explain` creates and `story` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from nfilter.api.types import JSON
from nfilter.report.calls import Call
from nfilter.report.tokens import Token

Status = Literal["kept", "dropped", "undecided", "unreadable"]


@dataclass(frozen=True, slots=True)
class Event:
    """The effect of one stage on a row: notes written, changes, decisions, calls, new samples."""

    stage: str
    notes: Mapping[str, JSON]
    replaced: Mapping[str, JSON]
    label_before: str | None
    label_after: str | None
    weight_before: float | None
    weight_after: float | None
    decisions: Sequence[Mapping[str, JSON]]
    calls: Sequence[Call]
    children: Sequence[str]


@dataclass(frozen=True, slots=True)
class Explanation:
    """A row's history. ``label`` is the original, ``label_now`` the final one; ``truth`` is None unless requested and known.

    ``rejected`` is the rejected response of a preference pair, as read. ``status`` is ``undecided`` while the run has not ended. ``tokens`` counts the response tokens in the loss. ``gaps`` lists
    what is missing.
    """

    id: str
    run: str
    status: Status
    stage: str | None
    reason: str | None
    messages: Sequence[Sequence[str]]
    columns: Mapping[str, JSON]
    label: str | None
    label_now: str | None
    weight: float
    pinned: bool
    parents: Sequence[str]
    children: Sequence[str]
    events: Sequence[Event]
    tokens: Mapping[str, JSON] | None = None
    truth: str | None = None
    raw: str | None = None
    gaps: Sequence[str] = ()
    response_tokens: Sequence[Token] | None = None
    rejected: str | None = None
