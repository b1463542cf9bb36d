"""Exact and near duplicates in a dataset: collected from a stream, then resolved so that one row of each group stays.

Memory: 150 bytes per row, and up to 360 more while near duplicates are decided (``buckets``). The texts that candidates are verified
against are in a temporary file.
"""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from nfilter import PackedTexts, StageConfig, hash_of, place_of
from nfilter_entp.purging.buckets import Buckets, Leaders
from nfilter_entp.purging.minhash import BANDS, Sketcher, digest
from nfilter_entp.purging.row_similarity import (
    Parts,
    Shingled,
    depths_of,
    question_hash,
    similarity_of,
)
from nfilter_entp.purging.texts import Text

EXACT, NEAR, SAME = 0, 1, 2
RULES = ("exact_duplicates", "near_duplicates", "same_response")


class Exact(StageConfig):
    """Prompt and response equal another row's, ignoring case, white space and compatibility forms (NFKC).

    The nesting depth of code lines counts; the indentation width does not. No settings.
    """


class Near(StageConfig):
    """Prompt and response each have a Jaccard similarity of at least ``least`` with another row's, and the question is the same.

    Questions differ if each has a number, or in the prompt a word, that the other lacks, or if one has an extra negation. If the
    response is a label of a few words, any different word in the prompt makes another question. Spelling variants are equal. Shingles
    are runs of eight bytes. ``compared``: maximum number of rows that a row is compared with.
    """

    least: float = Field(
        default=0.7,
        ge=0.5,
        le=1,
        description="Jaccard similarity of prompt and of response, at least, 0.5 to 1.",
    )
    compared: int = Field(
        default=32, ge=1, description="Rows that a row is compared with, at most."
    )


class Same(StageConfig):
    """The response, of at least ``words`` words, equals another row's, whatever the prompt. Off by default: refusals repeat rightly."""

    words: int = Field(
        default=20, ge=1, description="Words of a response that is compared, at least."
    )


@dataclass
class DuplicateCollector:
    """Packed columns with one entry per row, in stream order. ``texts`` is the temporary file."""

    exact: Exact | None
    near: Near | None
    same: Same | None
    texts: IO[bytes] = field(
        default_factory=lambda: tempfile.TemporaryFile(prefix="nfilter-purge-")  # noqa: SIM115
    )
    _packed: dict[str, bytearray] = field(default_factory=dict)
    _sketcher: Sketcher | None = None
    _size: int = 0
    rows: int = 0

    def __enter__(self) -> DuplicateCollector:
        return self

    def __exit__(self, *_: object) -> None:
        self.texts.close()

    @property
    def enabled(self) -> bool:
        """Whether any of the three rules runs."""
        return bool(self.exact or self.near or self.same)

    def add(self, name: str, text: Text, *, pinned: bool) -> None:
        """Add a row."""
        key = name.encode("utf-8", "surrogatepass")
        if self.exact:
            self._append("exact", digest(text.plain_context, text.plain, depths_of(text)))
        if self.same:
            counts = len(text.words) >= self.same.words
            self._append("same", digest(text.plain) if counts else digest(name, "\x1d"))
        body = b""
        if self.near:
            self._sketcher = self._sketcher or Sketcher()
            parts = Parts.of(text)
            self._append("bands", self._sketcher.bands(parts.joint()).tobytes())
            self._append("questions", question_hash(text).to_bytes(4, "little"))
            body = parts.packed()
        self._append("starts", self._size.to_bytes(8, "little"))
        self._append("ids", hash_of(name).to_bytes(8, "little"))
        self._append("lengths", len(text.response).to_bytes(4, "little"))
        self._append("pinned", bytes([pinned]))
        self._size += self.texts.write(len(key).to_bytes(4, "little") + key + body)
        self.rows += 1

    def _append(self, name: str, raw: bytes) -> None:
        self._packed.setdefault(name, bytearray()).extend(raw)

    def column(self, name: str, kind: str, width: int = 1) -> npt.NDArray[Any]:
        """Return a packed column as an array, [rows] or [rows, width], without a copy."""
        flat = np.frombuffer(self._packed.get(name, bytearray()), kind)
        return flat.reshape(-1, width) if width > 1 else flat

    def read(self, row: int) -> tuple[str, bytes]:
        """Return a row's id and its packed parts."""
        starts = self.column("starts", "<u8")
        start = int(starts[row])
        self.texts.seek(start)
        raw = self.texts.read((int(starts[row + 1]) if row + 1 < self.rows else self._size) - start)
        begin = 4 + int.from_bytes(raw[:4], "little")
        return raw[4:begin].decode("utf-8", "surrogatepass"), raw[begin:]

    def resolve(self, flagged: npt.NDArray[np.bool_]) -> Resolution:
        """Decide which rows are removed and which row each duplicates.

        The row that stays is pinned, else not flagged, else has the longest response; a hash of the id breaks ties. The result
        does not depend on the order of rows.

        Args:
            flagged: [rows]; rows that break another rule. No row is removed as a duplicate of a flagged one if another can stay.
        """
        self.texts.flush()
        ids = self.column("ids", "<u8")
        pinned = self.column("pinned", "u1").astype(bool)
        order = np.lexsort((ids, -self.column("lengths", "<u4").astype(np.int64), flagged, ~pinned))
        removals = Removals(order, pinned)
        if self.exact:
            removals.equal(self.column("exact", "V16"), EXACT)
        if self.near:
            self._mark_near_duplicates(removals, self.near)
        if self.same:
            removals.equal(self.column("same", "V16"), SAME)
        return removals.resolved(self)

    def _mark_near_duplicates(self, removals: Removals, rule: Near) -> None:
        order = removals.order[~removals.removed[removals.order]]
        bands = self.column("bands", "<u4", BANDS)
        for band in range(BANDS):  # sorted in place, to save memory
            bands[: len(order), band] = bands[order, band]
        buckets = Buckets.of(bands[: len(order)], self.column("questions", "<u4")[order])
        leaders, cache = Leaders(buckets), _ShingleCache(self)
        # Component by component, because rows that are compared are then read together; the result is the same.
        sequence = np.argsort(buckets.components(), kind="stable")
        for position in sequence[(buckets.of_row[sequence] >= 0).any(axis=1)].tolist():
            row, (own, divided) = int(order[position]), buckets.of_one(position)
            near = [] if removals.pinned[row] else leaders.candidates(own, divided, rule.compared)
            match = _match(cache, row, order[near].tolist(), rule.least) if near else None
            if match:
                leaders.touch(near[match[0]])
                removals.remove(row, int(order[near[match[0]]]), NEAR, match[1])
            else:
                leaders.add(position, own, divided)


def _match(
    cache: _ShingleCache, row: int, near: Sequence[int], least: float
) -> tuple[int, float] | None:
    """Return the place in ``near`` of the first row that ``row`` duplicates, and the similarity, or None."""
    one = cache.of(row)
    for place, other in enumerate(near):
        value = similarity_of(one, cache.of(other), least)
        if value is not None:
            return place, value
    return None


@dataclass
class _ShingleCache:
    """LRU cache of rows."""

    collected: DuplicateCollector
    rows: OrderedDict[int, Shingled] = field(default_factory=OrderedDict)

    def of(self, row: int) -> Shingled:
        if row in self.rows:
            self.rows.move_to_end(row)
        else:
            self.rows[row] = Shingled(Parts.unpacked(self.collected.read(row)[1]))
            if len(self.rows) > 512:
                self.rows.popitem(last=False)
        return self.rows[row]


class Removals:
    """Rows to remove, with the row each duplicates and the rule: arrays over all rows."""

    def __init__(self, order: npt.NDArray[np.int64], pinned: npt.NDArray[np.bool_]) -> None:
        n = len(order)
        self.order, self.pinned = order, pinned
        self.removed = np.zeros(n, bool)
        self._leader = np.full(n, -1, np.int32)
        self._kind = np.zeros(n, np.uint8)
        self._similarity = np.ones(n, np.float32)

    def remove(self, row: int, leader: int, kind: int, value: float) -> None:
        """Mark a row as a duplicate of ``leader``."""
        self.removed[row] = True
        self._leader[row], self._kind[row], self._similarity[row] = leader, kind, value

    def equal(self, column: npt.NDArray[Any], kind: int) -> None:
        """Mark all but the first row with each value as duplicates of the first; pinned rows stay."""
        order = self.order[~self.removed[self.order]]
        pairs = column[order].view("<u8").reshape(-1, 2)
        by = np.lexsort(
            (pairs[:, 1], pairs[:, 0])
        )  # stable: equal values keep the order of ``order``
        ordered = pairs[by]
        new = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)]) if len(by) else np.empty(0, bool)  # fmt: skip
        leader = (
            order[by][np.maximum.accumulate(np.where(new, np.arange(len(by)), 0))]
            if len(by)
            else order
        )
        for position in np.flatnonzero(~new):
            row = int(order[by[position]])
            if not self.pinned[row]:
                self.remove(row, int(leader[position]), kind, 1.0)

    def resolved(self, collected: DuplicateCollector) -> Resolution:
        """Return the state arrays, for removed rows only."""
        rows = np.flatnonzero(self.removed)
        rows = rows[np.argsort(collected.column("ids", "<u8")[rows], kind="stable")]
        leaders, which = np.unique(self._leader[rows], return_inverse=True)
        names = PackedTexts.of(collected.read(int(row))[0] for row in leaders)
        counts = np.bincount(self._kind[rows], minlength=len(RULES))
        arrays: dict[str, npt.NDArray[Any]] = {
            "copies": collected.column("ids", "<u8")[rows].astype(np.uint64),
            "copy_of": which.ravel().astype(np.int32),
            "copy_kind": self._kind[rows],
            "copy_likeness": self._similarity[rows],
            **names.arrays("names"),
        }
        return Resolution(arrays, dict(zip(RULES, map(int, counts), strict=True)))


@dataclass(frozen=True, slots=True)
class Resolution:
    """State arrays, and the number of rows removed by each rule."""

    arrays: Mapping[str, npt.NDArray[Any]]
    counts: Mapping[str, int]


def duplicate_of(
    name: str, arrays: Mapping[str, npt.NDArray[Any]]
) -> tuple[int, str, float] | None:
    """Return the rule's code, the id of the row that stays and the similarity, or None for a row that is no duplicate."""
    if "copies" not in arrays:
        return None
    position = place_of(arrays["copies"], name)
    if position is None:
        return None
    which = int(arrays["copy_of"][position])
    leader = PackedTexts.open(arrays, "names")[which]
    return int(arrays["copy_kind"][position]), leader, float(arrays["copy_likeness"][position])


def reason_of(kind: int, leader: str, value: float, near: Near | None) -> tuple[str, str]:
    """Return the rule's name and the reason."""
    reasons = {
        EXACT: f"the same prompt and response as {leader!r}",
        NEAR: f"Jaccard {value:.2f} with {leader!r}, at least {near.least if near else 0:g}, in prompt and response",
        SAME: f"the same response as {leader!r}",
    }
    return RULES[kind], reasons[kind]
