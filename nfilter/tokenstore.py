"""The tokens that a run trained on, on disk: flat memory-mappable arrays with offsets, and the texts beside them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nfilter.store import read_json, read_jsonl, write_json, write_jsonl
from nfilter.types import TokenSample

_INDEX = "index.json"
_TEXTS = "texts.jsonl"
_ARRAYS = ("ids", "response", "turn", "spans", "weights", "reasons")


def write_tokens(directory: Path, samples: Sequence[TokenSample], reasons: Sequence[str]) -> None:
    """Publish ids, weights, response mask, spans, reasons and scores as flat arrays; ``offsets`` cuts them by sample.

    ``texts.jsonl`` has the rendered conversations, in the same order.
    """
    part = directory.with_name(f".{directory.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    lengths = [len(sample.ids) for sample in samples]
    arrays = {
        "offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "ids": _flat([sample.ids for sample in samples], np.int64),
        "response": _flat([sample.response for sample in samples], np.bool_),
        "turn": _flat([sample.turn for sample in samples], np.int16),
        "spans": _flat([sample.spans for sample in samples], np.int32),
        "weights": _flat([sample.weights for sample in samples], np.float32),
        "reasons": _flat([sample.reasons for sample in samples], np.uint32),
    }
    names = sorted({name for sample in samples for name in sample.scores})
    for name in names:
        parts = [
            sample.scores.get(name, np.full(len(sample.ids), np.nan, np.float32))
            for sample in samples
        ]
        arrays[f"score-{name}"] = _flat(parts, np.float32)
    for name, values in arrays.items():
        np.save(part / f"{name}.npy", values, allow_pickle=False)
    write_jsonl(part / _TEXTS, ({"id": s.id, "text": s.text} for s in samples))
    write_json(
        part / _INDEX,
        {"samples": [sample.id for sample in samples], "reasons": list(reasons), "scores": names},
    )
    # Renamed only when it is whole, so that no array of an earlier run stands among these.
    shutil.rmtree(directory, ignore_errors=True)
    part.rename(directory)


def read_tokens(directory: Path) -> tuple[list[TokenSample], list[str]]:
    """What ``write_tokens`` published: samples over memory-mapped arrays, and the names of the reason bits."""
    index, arrays = _opened(directory)
    texts = _texts(directory, len(index["samples"]))
    samples = [_at(index, arrays, place, text) for place, text in enumerate(texts)]
    return samples, list(index["reasons"])


def read_one(directory: Path, name: str) -> tuple[TokenSample, list[str]] | None:
    """One sample by its id, and the names of the reason bits; None where there are no tokens of it."""
    if not has_tokens(directory):
        return None
    index, arrays = _opened(directory)
    if name not in index["samples"]:
        return None
    place = index["samples"].index(name)
    (text,) = islice(_texts(directory, len(index["samples"])), place, place + 1)
    return _at(index, arrays, place, text), list(index["reasons"])


def has_tokens(directory: Path) -> bool:
    """Whether ``write_tokens`` published anything here."""
    return (directory / _INDEX).is_file()


def _opened(directory: Path) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    index = read_json(directory / _INDEX)
    names = ("offsets", *_ARRAYS, *(f"score-{name}" for name in index["scores"]))
    return index, {
        name: np.load(directory / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        for name in names
    }


def _texts(directory: Path, count: int) -> Iterator[str]:
    """The rendered conversations in order; runs before they were kept have none."""
    file = directory / _TEXTS
    if file.is_file():
        return (row["text"] for row in read_jsonl(file))
    return iter([""] * count)


def _at(
    index: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], place: int, text: str
) -> TokenSample:
    start, end = arrays["offsets"][place : place + 2]
    return TokenSample(
        id=index["samples"][place],
        **{name: arrays[name][start:end] for name in _ARRAYS},
        scores={name: arrays[f"score-{name}"][start:end] for name in index["scores"]},
        text=text,
    )


def _flat(parts: Sequence[npt.NDArray[Any]], kind: type) -> npt.NDArray[Any]:
    return np.concatenate(parts).astype(kind) if parts else np.zeros(0, dtype=kind)
