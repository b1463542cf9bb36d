"""The notes that stages of this plugin read from one another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nfilter import JSON, Sample


@dataclass(frozen=True, slots=True)
class RatingNote:
    """The rating that ``entp.rate`` or ``entp.curate`` wrote.

    Attributes:
        label: The rating as it stands in the note; None if the model's reply was unreadable.
        failure: Why there is no rating.
    """

    label: JSON
    failure: JSON

    @classmethod
    def of(cls, sample: Sample, name: str) -> RatingNote | None:
        """Read the note ``name``; None if the sample has none, or it has no label."""
        note = _fields(sample, name)
        return cls(note["label"], note.get("failure")) if "label" in note else None


@dataclass(frozen=True, slots=True)
class PairNote:
    """The partner that ``entp.pair`` chose.

    Attributes:
        partner: The id of the partner; None if the sample is unpaired.
        lead: Whether the new sample is made at this sample.
        why: Why the sample is unpaired.
    """

    partner: str | None
    lead: bool
    why: str

    @classmethod
    def of(cls, sample: Sample, name: str) -> PairNote:
        """Read the note ``name``; a sample without it is unpaired."""
        note = _fields(sample, name)
        partner, why = note.get("with"), note.get("why")
        return cls(
            partner if isinstance(partner, str) else None,
            note.get("lead") is True,
            str(why) if why else "no pair",
        )


def _fields(sample: Sample, name: str) -> Mapping[str, JSON]:
    note = sample.notes.get(name)
    return note if isinstance(note, Mapping) else {}
