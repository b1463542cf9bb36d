"""Samples on disk: one JSON line per sample."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from nfilter.api.types import Message, Sample
from nfilter.store.artefacts import Artefact
from nfilter.store.files import write_jsonl
from nfilter.store.seals import Seal


def sample_to_json(sample: Sample) -> dict[str, Any]:
    """Return a sample as JSON without ``why``, which the decisions contain."""
    return {
        "id": sample.id,
        "messages": [message.packed() for message in sample.messages],
        "notes": dict(sample.notes),
        "meta": dict(sample.meta),
        "parents": list(sample.parents),
        "weight": sample.weight,
        "pinned": sample.pinned,
        "dropped": sample.dropped,
        **({"tools": [dict(tool) for tool in sample.tools]} if sample.tools else {}),
        **({} if sample.rejected is None else {"rejected": sample.rejected.packed()}),
    }


def sample_from_json(value: Mapping[str, Any]) -> Sample:
    """Return the sample from its JSON form."""
    return Sample(
        id=value["id"],
        messages=tuple(Message.unpacked(message) for message in value["messages"]),
        notes=MappingProxyType(value["notes"]),
        meta=MappingProxyType(value["meta"]),
        parents=tuple(value["parents"]),
        weight=value["weight"],
        pinned=value["pinned"],
        dropped=value["dropped"],
        tools=tuple(value.get("tools", ())),
        rejected=Message.unpacked(value["rejected"]) if "rejected" in value else None,
    )


class SampleChunks:
    """A chunk of samples as a JSON Lines file."""

    suffix: ClassVar[str] = ".jsonl"

    def write(self, path: Path, index: int, samples: Iterable[Sample]) -> Seal:
        """Publish the samples at ``path``."""
        return write_jsonl(path, (sample_to_json(sample) for sample in samples))

    def read(self, data: bytes, index: int) -> list[Sample]:
        """Return the samples of a file."""
        lines = data.decode().split("\n")
        return [sample_from_json(json.loads(line)) for line in lines if line]


def open_samples(directory: Path) -> Artefact[Sample]:
    """Open the artefact of a sample stage, or of the source."""
    return Artefact(directory, SampleChunks())
