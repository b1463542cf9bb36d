"""Token samples on disk, chunk by chunk: encoding writes everything once, a token stage only its changes.

A chunk is one ``.npz`` file of flat arrays, uncompressed and without pickle. A chunk of encoding has ids, response mask,
turn, spans, cut, names and texts: 15 bytes per token and the text. A chunk of a token stage has ``weights`` and ``reasons``
(4 bytes per token each) if it changed them, and 4 bytes per token for each score that it wrote; the rest is read from the
artefact before it.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, TypeAlias
from urllib.parse import quote, unquote

import numpy as np
import numpy.typing as npt

from nfilter.api.packed_texts import PackedTexts
from nfilter.api.types import FloatArray, TokenSample
from nfilter.store.artefacts import Artefact
from nfilter.store.files import write_arrays
from nfilter.store.seals import Seal

Arrays: TypeAlias = dict[str, npt.NDArray[Any]]


class TokenChunks:
    """A chunk of token samples as changes to the same chunk of the artefact ``before``, which is None for encoding."""

    suffix: ClassVar[str] = ".npz"

    def __init__(self, before: Artefact[TokenSample] | None = None) -> None:
        self._before = before

    def write(self, path: Path, index: int, samples: Iterable[TokenSample]) -> Seal:
        """Publish the samples of chunk ``index`` at ``path``."""
        now = list(samples)
        if self._before is not None:
            return write_arrays(path, _changes(self._before.chunk(index), now))
        fixed = _fixed(now)
        return write_arrays(path, {**fixed, **_changes(list(_unchanged(fixed)), now)})

    def read(self, data: bytes, index: int) -> list[TokenSample]:
        """Return the samples of chunk ``index`` from the bytes of its file."""
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        before = _unchanged(arrays) if self._before is None else self._before.chunk(index)
        return _applied(list(before), arrays)


def open_tokens(
    directory: Path, before: Artefact[TokenSample] | None = None
) -> Artefact[TokenSample]:
    """Open the artefact of a token stage that reads ``before``, or that of encoding if ``before`` is None."""
    return Artefact(directory, TokenChunks(before))


def file_of(score: str) -> str:
    """Return the file name of a score. The recipe chooses the score's name, which may contain path separators."""
    return f"score-{quote(score, safe='')}"


def flat(parts: Sequence[npt.NDArray[Any]], kind: Any) -> npt.NDArray[Any]:
    """Concatenate arrays, converted to the type ``kind``."""
    return np.concatenate(parts).astype(kind) if parts else np.zeros(0, dtype=kind)


def _fixed(samples: Sequence[TokenSample]) -> Arrays:
    """The arrays that no stage changes."""
    ids = flat([sample.ids for sample in samples], np.int64)
    fits = not len(ids) or (ids.min() >= 0 and ids.max() < 2**31)
    return {
        **PackedTexts.of(sample.id for sample in samples).arrays("names"),
        **PackedTexts.of(sample.text for sample in samples).arrays("texts"),
        "ends": np.cumsum([len(sample.ids) for sample in samples], dtype=np.int64),
        "cut_ends": np.cumsum([len(sample.cut) for sample in samples], dtype=np.int64),
        "ids": ids.astype(np.int32) if fits else ids,
        "response": flat([sample.response for sample in samples], np.bool_),
        "turn": flat([sample.turn for sample in samples], np.int16),
        "spans": flat([sample.spans.reshape(-1, 2) for sample in samples], np.int32).reshape(-1, 2),
        "cut": flat([sample.cut for sample in samples], np.bool_),
    }


def _unchanged(arrays: Mapping[str, npt.NDArray[Any]]) -> Iterator[TokenSample]:
    """The samples of the arrays of ``_fixed``, with weight 1 at every response token and without scores."""
    names, texts = PackedTexts.open(arrays, "names"), PackedTexts.open(arrays, "texts")
    ids = arrays["ids"].astype(np.int64)
    start = cut = 0
    for row, (end, cut_end) in enumerate(
        zip(arrays["ends"].tolist(), arrays["cut_ends"].tolist(), strict=True)
    ):
        response = arrays["response"][start:end]
        yield TokenSample(
            id=names[row],
            ids=ids[start:end],
            response=response,
            turn=arrays["turn"][start:end],
            spans=arrays["spans"][start:end],
            weights=response.astype(np.float32),
            text=texts[row],
            cut=arrays["cut"][cut:cut_end],
        )
        start, cut = end, cut_end


def _changes(before: Sequence[TokenSample], now: Sequence[TokenSample]) -> Arrays:
    """The changes between two versions of a chunk. If only some samples have a score, ``rows-`` has their indices."""
    pairs = list(zip(before, now, strict=True))
    arrays: Arrays = {}
    if not all(np.array_equal(was.weights, is_.weights) for was, is_ in pairs):
        arrays["weights"] = flat([sample.weights for sample in now], np.float32)
    if not all(np.array_equal(was.reasons, is_.reasons) for was, is_ in pairs):
        arrays["reasons"] = flat([sample.reasons for sample in now], np.uint32)
    for name in sorted({name for sample in now for name in sample.scores}):
        rows = [
            row
            for row, (was, is_) in enumerate(pairs)
            if name in is_.scores and not _same(was.scores.get(name), is_.scores[name])
        ]
        if rows:
            arrays[file_of(name)] = flat([now[row].scores[name] for row in rows], np.float32)
        if 0 < len(rows) < len(now):
            arrays[f"rows-{file_of(name)}"] = np.array(rows, dtype=np.int64)
    return arrays


def _same(was: FloatArray | None, now: FloatArray) -> bool:
    return was is not None and np.array_equal(was, now, equal_nan=True)


def _applied(
    before: Sequence[TokenSample], arrays: Mapping[str, npt.NDArray[Any]]
) -> list[TokenSample]:
    """The samples of a chunk with the changes of ``_changes`` applied."""
    lengths = [len(sample.ids) for sample in before]
    changes: list[dict[str, Any]] = [{} for _ in before]
    scores: list[dict[str, FloatArray]] = [dict(sample.scores) for sample in before]
    for name in ("weights", "reasons"):
        if name in arrays:
            for change, values in zip(changes, _split(arrays[name], lengths), strict=True):
                change[name] = values
    for key in (key for key in arrays if key.startswith("score-")):
        name = unquote(key.removeprefix("score-"))
        rows = arrays.get(f"rows-{key}", np.arange(len(before))).tolist()
        pieces = _split(arrays[key], [lengths[row] for row in rows])
        for row, values in zip(rows, pieces, strict=True):
            scores[row][name] = values
    return [
        replace(sample, **change, scores=MappingProxyType(score))
        for sample, change, score in zip(before, changes, scores, strict=True)
    ]


def _split(values: npt.NDArray[Any], lengths: Sequence[int]) -> Iterator[npt.NDArray[Any]]:
    start = 0
    for length in lengths:
        yield values[start : start + length]
        start += length
