"""The state of ``entp.mix``: outcomes of pairs, packed by ``fit`` and read by ``process`` for each sample."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nfilter import JSON, FloatArray, PackedTexts, State, hash_of, place_of, rows_by_id
from nfilter_entp.mixing.repair_cycle import Case

_TEXTS = 6  # per pair: the ids of lead and other, system prompt, instruction, answer, log as JSON
_OTHER, _UNFIT, _LEADS = range(3)  # reasons a listed partner cannot be used


@dataclass(slots=True)
class Partner:
    """The partner that a sample's pair note names, and ``index``, the place of the sample's texts, in samples."""

    other: str
    lead: bool
    index: int


@dataclass(slots=True)
class Outcomes:
    """Results of all pairs, appended pair by pair."""

    failed: list[bool] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)  # _TEXTS per pair
    vectors: list[FloatArray] = field(default_factory=list)  # accepted samples only
    calls: int = 0
    templates: Counter[str] = field(default_factory=Counter)
    failure_counts: Counter[str] = field(default_factory=Counter)

    def add(
        self, lead: str, other: str, case: Case, log: Mapping[str, Any], failure: str | None
    ) -> None:
        """Append a pair with its log and ``failure``, the reason it failed; None if it was mixed."""
        self.failed.append(failure is not None)
        self.calls += case.calls
        self.templates.update(case.templates)
        turns = (case.system, case.texts.get("instruction", ""), case.texts.get("answer", ""))
        self.texts += (lead, other, *turns, json.dumps({"log": log, "why": failure}))

    def to_state(
        self,
        pairs: Sequence[tuple[str, str]],
        report: Mapping[str, JSON],
        unmatched: Mapping[int, int],
    ) -> State:
        """Return the state: ``pairs`` by id hash, their texts, and why other listed partners cannot be used.

        Args:
            pairs: lead and other of each pair, in the order in which pairs were added.
            report: figures for metrics.json.
            unmatched: the result of ``unmatched``.
        """
        names = [name for pair in pairs for name in pair]
        return State(
            {"report": dict(report)},
            {
                **rows_by_id(names, pair=np.arange(len(names)) // 2),
                "stray": np.array(sorted(unmatched), dtype=np.uint64),
                "stray_why": np.array(
                    [unmatched[key] for key in sorted(unmatched)], dtype=np.uint8
                ),
                **PackedTexts.of(self.texts).arrays("text"),
            },
        )


@dataclass(frozen=True, slots=True)
class Pair:
    """Outcome of one pair; ``why``: the failure, or None."""

    lead: str
    other: str
    system: str
    instruction: str
    answer: str
    log: dict[str, Any]
    why: str | None


@dataclass(frozen=True, slots=True)
class Results:
    """The opened state."""

    rows: Any
    pairs: Any
    texts: PackedTexts

    @classmethod
    def open(cls, state: State) -> Results:
        """Open the arrays of a state that ``Outcomes.to_state`` returned."""
        return cls(
            state.arrays["ids"], state.arrays["pair"], PackedTexts.open(state.arrays, "text")
        )

    def pair_of(self, name: str) -> Pair | None:
        """Return the pair that contains the sample ``name``, or None."""
        row = place_of(self.rows, name)
        if row is None:
            return None
        first = _TEXTS * int(self.pairs[row])
        lead, other, system, instruction, answer, log = (
            self.texts[first + at] for at in range(_TEXTS)
        )
        if name not in (lead, other):
            return None
        value = json.loads(log)
        return Pair(lead, other, system, instruction, answer, value["log"], value["why"])


def unmatched(
    partners: Mapping[str, Partner], pairs: Sequence[tuple[str, str]], present_ids: array[int]
) -> dict[int, int]:
    """Map the id hash of each unpaired sample whose partner is present to the reason; absent partners are not included."""
    paired = {name for pair in pairs for name in pair}
    names = [name for name in partners if name not in paired]
    reasons: dict[int, int] = {}
    if not names:
        return reasons
    others = np.array([hash_of(partners[name].other) for name in names], dtype=np.uint64)
    known = np.isin(others, np.frombuffer(present_ids, dtype=np.uint64))
    for name, is_present in zip(names, known.tolist(), strict=True):
        other = partners.get(partners[name].other)
        if is_present:
            why = _UNFIT if other is None else _OTHER if other.other != name else _LEADS
            reasons[hash_of(name)] = why
    return reasons


def unmatched_reason(name: str, other: str, state: State) -> str:
    """Return the reason the sample ``name``, whose note names the partner ``other``, is in no pair."""
    at = place_of(state.arrays["stray"], name)
    if at is None:
        return f"its partner {other} was dropped before mixing"
    return {
        _OTHER: f"its partner {other} is paired with another sample",
        _UNFIT: f"its partner {other} is not paired or cannot be mixed",
        _LEADS: f"it and its partner {other} do not have exactly one lead",
    }[int(state.arrays["stray_why"][at])]
