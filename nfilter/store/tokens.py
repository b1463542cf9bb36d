"""The tokens of a run in ``tokens/``: flat memory-mapped arrays with offsets, and the rendered texts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nfilter.api.capabilities import TokenizerDigest
from nfilter.api.errors import DamageError
from nfilter.api.types import TokenSample
from nfilter.store.files import (
    check_folder,
    publishing_folder,
    read_jsonl,
    read_sealed,
    write_array,
    write_jsonl,
    write_sealed,
)
from nfilter.store.token_chunks import file_of, flat

_INDEX = "index.json"
_TEXTS = "texts.jsonl"
_ARRAYS = ("ids", "response", "turn", "spans", "weights", "reasons")


def write_tokens(
    directory: Path,
    samples: Sequence[TokenSample],
    reasons: Sequence[str],
    *,
    tokenizer: Mapping[str, str] | None = None,
    made_of: str | None = None,
) -> None:
    """Publish ids, weights, response mask, spans, reasons and scores as flat arrays; ``offsets`` has the bounds of samples.

    ``cut_offsets`` has the bounds in ``cut``. ``texts.jsonl`` has the rendered conversations in the same order. Size: 27 bytes
    per token, 4 more per score, and the text.

    Args:
        directory: Published atomically; replaces the folder of an earlier run.
        samples: The samples in order.
        reasons: The names of the reason bits.
        tokenizer: The fields of a ``TokenizerDigest``; None if the model's backend provides none.
        made_of: The fingerprint of the artefact that contains the samples.
    """
    lengths = [len(sample.ids) for sample in samples]
    arrays = {
        "offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "ids": flat([sample.ids for sample in samples], np.int64),
        "response": flat([sample.response for sample in samples], np.bool_),
        "turn": flat([sample.turn for sample in samples], np.int16),
        "spans": flat([sample.spans for sample in samples], np.int32),
        "weights": flat([sample.weights for sample in samples], np.float32),
        "reasons": flat([sample.reasons for sample in samples], np.uint32),
    }
    cuts = [len(sample.cut) for sample in samples]
    arrays["cut"] = flat([sample.cut for sample in samples], np.bool_)
    arrays["cut_offsets"] = np.concatenate([[0], np.cumsum(cuts)]).astype(np.int64)
    names = sorted({name for sample in samples for name in sample.scores})
    for name in names:
        parts = [
            sample.scores.get(name, np.full(len(sample.ids), np.nan, np.float32))
            for sample in samples
        ]
        arrays[file_of(name)] = flat(parts, np.float32)
    with publishing_folder(directory) as part:
        files = {
            f"{name}.npy": write_array(part / f"{name}.npy", values)
            for name, values in arrays.items()
        }
        files[_TEXTS] = write_jsonl(part / _TEXTS, ({"id": s.id, "text": s.text} for s in samples))
        write_sealed(
            part / _INDEX,
            {
                "files": files,
                "samples": [sample.id for sample in samples],
                "reasons": list(reasons),
                "scores": names,
                "tokenizer": dict(tokenizer) if tokenizer is not None else None,
                "made_of": made_of,
            },
        )


def is_made_of(directory: Path, fingerprint: str) -> bool:
    """Whether the tokens published here are undamaged and come from the artefact with this fingerprint."""
    try:
        return bool(check_folder(directory / _INDEX, directory.parent)["made_of"] == fingerprint)
    except (DamageError, KeyError):
        return False


def read_tokens(directory: Path) -> tuple[list[TokenSample], list[str]]:
    """Return the published samples, as views of memory-mapped arrays, and the names of the reason bits.

    Raises:
        DamageError: if a file is missing or was changed.
    """
    index, arrays = _opened(directory)
    texts = _texts(directory)
    samples = [_sample(index, arrays, row, text) for row, text in enumerate(texts)]
    return samples, list(index["reasons"])


def read_one(directory: Path, name: str) -> tuple[TokenSample, list[str]] | None:
    """Return the sample with the id ``name`` and the names of the reason bits; None if it has no tokens here.

    Raises:
        DamageError: if a file is missing or was changed.
    """
    if not has_tokens(directory):
        return None
    index, arrays = _opened(directory)
    if name not in index["samples"]:
        return None
    row = index["samples"].index(name)
    with (directory / _TEXTS).open(encoding="utf-8") as lines:
        text = json.loads(next(islice(lines, row, None)))["text"]
    return _sample(index, arrays, row, text), list(index["reasons"])


def has_tokens(directory: Path) -> bool:
    """Whether tokens are published here."""
    return (directory / _INDEX).exists()


def tokenizer_of(directory: Path) -> TokenizerDigest | None:
    """Return the digest of the tokenizer that made the published ids; None if it is unknown."""
    value = read_sealed(directory / _INDEX, directory.parent).get("tokenizer")
    return TokenizerDigest(**value) if value else None


def _opened(directory: Path) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """The index and all arrays, memory-mapped, after verifying each file."""
    index = check_folder(directory / _INDEX, directory.parent)
    names = ("offsets", *_ARRAYS, *map(file_of, index["scores"]), "cut", "cut_offsets")
    return index, {
        name: np.load(directory / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        for name in names
    }


def _texts(directory: Path) -> Iterator[str]:
    """The rendered conversations in order."""
    return (row["text"] for row in read_jsonl(directory / _TEXTS))


def _sample(
    index: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], row: int, text: str
) -> TokenSample:
    start, end = arrays["offsets"][row : row + 2]
    first, last = arrays["cut_offsets"][row : row + 2]
    parts: dict[str, Any] = {name: arrays[name][start:end] for name in _ARRAYS}
    return TokenSample(
        id=index["samples"][row],
        **parts,
        scores={name: arrays[file_of(name)][start:end] for name in index["scores"]},
        text=text,
        cut=arrays["cut"][first:last],
    )
