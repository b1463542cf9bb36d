"""The record of one row that `explain` makes and `story` tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from nfilter.report.calls import Call
from nfilter.report.tokens import Token

if TYPE_CHECKING:
    from nfilter.api.types import JSON

Status = Literal["kept", "dropped", "undecided", "unreadable"]


@dataclass(frozen=True, slots=True)
class Event:
    """What one stage did to a row: the notes it wrote, what it changed, its decisions, the calls it made."""

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
    """A row's story. ``label`` is as given, ``label_now`` as it ended; ``truth`` is None unless asked for and known.

    ``status`` is ``undecided`` while the run has not ended. ``tokens`` says how much of the response training saw.
    ``gaps`` names what could not be read.
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
