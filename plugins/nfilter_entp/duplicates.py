"""Exact and near duplicates of a whole dataset: collected as a stream, settled so that each has a copy that stays.

A row is kept at 16 + 100 + 29 bytes; the texts that a verdict is checked on lie in a temporary file.
"""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from nfilter import PackedTexts, StageConfig, hash_of, place_of
from nfilter_entp.copies import Parts, Shingled, depths_of, likeness
from nfilter_entp.sketches import BANDS, Leaders, Sketcher, digest, grouped
from nfilter_entp.texts import Text

EXACT, NEAR, SAME = 0, 1, 2
RULES = ("exact_duplicates", "near_duplicates", "same_response")


class Exact(StageConfig):
    """Prompt and response are another row's, but for case, white space and compatibility forms (NFKC).

    How deep lines of code are counts, how wide a step is does not. No settings.
    """


class Near(StageConfig):
    """Prompt and response both have at least the Jaccard ``least`` with another row's, and it is the same question.

    It is another where each has a number or, in the prompt, a word that the other has not, or one a negation more; where the
    response is a label of some words, with any other word. Spelling is no difference. Shingles are runs of eight bytes. ``compared``: a row is compared with so many others of a band at most.
    """

    least: float = Field(default=0.7, ge=0.5, le=1)
    compared: int = Field(default=32, ge=1)


class Same(StageConfig):
    """The response, of ``words`` or more, is another row's, whatever the prompt. Off by default: refusals are so by right."""

    words: int = Field(default=20, ge=1)


@dataclass
class Collected:
    """What is known of each row, packed, in the order of the stream; ``texts`` is the file."""

    exact: Exact | None
    near: Near | None
    same: Same | None
    texts: IO[bytes] = field(
        default_factory=lambda: tempfile.TemporaryFile(prefix="nfilter-purge-")  # noqa: SIM115
    )
    _packed: dict[str, bytearray] = field(default_factory=dict)
    _sketcher: Sketcher | None = None
    rows: int = 0

    def __enter__(self) -> Collected:
        return self

    def __exit__(self, *_: object) -> None:
        self.texts.close()

    @property
    def wanted(self) -> bool:
        """Whether any of the rules runs."""
        return bool(self.exact or self.near or self.same)

    def add(self, name: str, text: Text, *, pinned: bool) -> None:
        """Take a row in."""
        key = name.encode("utf-8", "surrogatepass")
        if self.exact:
            self._put("exact", digest(text.plain_context, text.plain, depths_of(text)))
        if self.same:
            counts = len(text.words) >= self.same.words
            self._put("same", digest(text.plain) if counts else digest(name, "\x1d"))
        body = b""
        if self.near:
            self._sketcher = self._sketcher or Sketcher()
            parts = Parts.of(text)
            self._put("bands", self._sketcher.bands(parts.joint()).tobytes())
            body = parts.packed()
        self._put("starts", self.texts.tell().to_bytes(8, "little"))
        self._put("ids", hash_of(name).to_bytes(8, "little"))
        self._put("lengths", len(text.response).to_bytes(4, "little"))
        self._put("pinned", bytes([pinned]))
        self.texts.write(
            len(key).to_bytes(4, "little") + len(body).to_bytes(4, "little") + key + body
        )
        self.rows += 1

    def _put(self, name: str, raw: bytes) -> None:
        self._packed.setdefault(name, bytearray()).extend(raw)

    def column(self, name: str, kind: str, width: int = 1) -> npt.NDArray[Any]:
        """A packed column as an array, [rows] or [rows, width], without a copy."""
        flat = np.frombuffer(self._packed.get(name, bytearray()), kind)
        return flat.reshape(-1, width) if width > 1 else flat

    def read(self, row: int) -> tuple[str, bytes]:
        """A row's id and its packed parts."""
        self.texts.seek(int(self.column("starts", "<u8")[row]))
        sizes = self.texts.read(8)
        size = int.from_bytes(sizes[:4], "little")
        name = self.texts.read(size).decode("utf-8", "surrogatepass")
        return name, self.texts.read(int.from_bytes(sizes[4:], "little"))

    def settle(self, flagged: npt.NDArray[np.bool_]) -> Settled:
        """Who leaves for whom. ``flagged`` [rows]: those that another rule finds faulty, which no other row leaves for.

        The one that stays is pinned, or not flagged, or has the longest response; a hash of the id breaks ties. So it is the
        same in whatever order rows come.
        """
        self.texts.flush()
        ids = self.column("ids", "<u8")
        pinned = self.column("pinned", "u1").astype(bool)
        order = np.lexsort((ids, -self.column("lengths", "<u4").astype(np.int64), flagged, ~pinned))
        leaves = Leaves(order, pinned)
        if self.exact:
            leaves.equal(self.column("exact", "V16"), EXACT)
        if self.near:
            self._near(leaves, self.near)
        if self.same:
            leaves.equal(self.column("same", "V16"), SAME)
        return leaves.settled(self)

    def _near(self, leaves: Leaves, rule: Near) -> None:
        order = leaves.order[~leaves.left[leaves.order]]
        bands = self.column("bands", "<u4", BANDS)
        groups = bands.view(
            "<i4"
        )  # a band's hashes give way to its groups, so that memory is needed once
        total = 0
        for band in range(BANDS):
            numbers = grouped(bands[order, band])
            groups[:, band] = -1
            groups[order, band] = np.where(numbers >= 0, numbers + total, -1)
            total += int(numbers.max(initial=-1)) + 1
        leaders, known = Leaders(total), _Known(self)
        shared_by_some: npt.NDArray[np.bool_] = np.any(groups >= 0, axis=1)
        for place in np.flatnonzero(shared_by_some[order]):
            row = int(order[place])
            mine = groups[row][groups[row] >= 0].tolist()
            if not leaves.pinned[row]:
                shared = sorted(
                    {near for group in mine for near in leaders.of(group, rule.compared)}
                )
                found = next(
                    ((other, value) for other in shared
                     if (value := likeness(known.of(row), known.of(int(order[other])), rule.least)) is not None),
                    None,
                )  # fmt: skip
                if found:
                    leaves.leave(row, int(order[found[0]]), NEAR, found[1])
                    continue
            leaders.add(int(place), mine)


@dataclass
class _Known:
    """The shingles of rows that were looked at of late."""

    collected: Collected
    rows: OrderedDict[int, Shingled] = field(default_factory=OrderedDict)

    def of(self, row: int) -> Shingled:
        if row in self.rows:
            self.rows.move_to_end(row)
        else:
            self.rows[row] = Shingled.of(Parts.unpacked(self.collected.read(row)[1]))
            if len(self.rows) > 512:
                self.rows.popitem(last=False)
        return self.rows[row]


class Leaves:
    """Which rows leave, for whom, by which rule: arrays over all rows."""

    def __init__(self, order: npt.NDArray[np.int64], pinned: npt.NDArray[np.bool_]) -> None:
        n = len(order)
        self.order, self.pinned = order, pinned
        self.left = np.zeros(n, bool)
        self._for = np.full(n, -1, np.int32)
        self._kind = np.zeros(n, np.uint8)
        self._likeness = np.ones(n, np.float32)

    def leave(self, row: int, leader: int, kind: int, value: float) -> None:
        """Note one."""
        self.left[row] = True
        self._for[row], self._kind[row], self._likeness[row] = leader, kind, value

    def equal(self, column: npt.NDArray[Any], kind: int) -> None:
        """Of rows with the same value, those after the first leave for it; pinned ones stay."""
        order = self.order[~self.left[self.order]]
        pairs = column[order].view("<u8").reshape(-1, 2)
        by = np.lexsort((pairs[:, 1], pairs[:, 0]))  # stable: within a value, as in ``order``
        ordered = pairs[by]
        new = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)]) if len(by) else np.empty(0, bool)  # fmt: skip
        leader = (
            order[by][np.maximum.accumulate(np.where(new, np.arange(len(by)), 0))]
            if len(by)
            else order
        )
        for place in np.flatnonzero(~new):
            row = int(order[by[place]])
            if not self.pinned[row]:
                self.leave(row, int(leader[place]), kind, 1.0)

    def settled(self, collected: Collected) -> Settled:
        """What is needed of them later, for the rows that leave alone."""
        rows = np.flatnonzero(self.left)
        rows = rows[np.argsort(collected.column("ids", "<u8")[rows], kind="stable")]
        leaders, which = np.unique(self._for[rows], return_inverse=True)
        names = PackedTexts.of(collected.read(int(row))[0] for row in leaders)
        counts = np.bincount(self._kind[rows], minlength=len(RULES))
        arrays: dict[str, npt.NDArray[Any]] = {
            "copies": collected.column("ids", "<u8")[rows].astype(np.uint64),
            "copy_of": which.ravel().astype(np.int32),
            "copy_kind": self._kind[rows],
            "copy_likeness": self._likeness[rows],
            **names.arrays("names"),
        }
        return Settled(arrays, dict(zip(RULES, map(int, counts), strict=True)))


@dataclass(frozen=True, slots=True)
class Settled:
    """Arrays for a state, and how many leave by each rule."""

    arrays: Mapping[str, npt.NDArray[Any]]
    counts: Mapping[str, int]


def copy_of(name: str, arrays: Mapping[str, npt.NDArray[Any]]) -> tuple[int, str, float] | None:
    """The kind, the id of the row that stays and the likeness, of a row that leaves as a duplicate."""
    if "copies" not in arrays:
        return None
    place = place_of(arrays["copies"], name)
    if place is None:
        return None
    which = int(arrays["copy_of"][place])
    leader = PackedTexts.open(arrays, "names")[which]
    return int(arrays["copy_kind"][place]), leader, float(arrays["copy_likeness"][place])


def said_of(kind: int, leader: str, value: float, near: Near | None) -> tuple[str, str]:
    """The rule and its reason."""
    said = {
        EXACT: f"the same prompt and response as {leader!r}",
        NEAR: f"Jaccard {value:.2f} with {leader!r}, at least {near.least if near else 0:g}, in prompt and response",
        SAME: f"the same response as {leader!r}",
    }
    return RULES[kind], said[kind]
