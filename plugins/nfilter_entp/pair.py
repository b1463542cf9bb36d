"""``entp.pair``: two samples of like instructions each, disjoint, to be mixed into one (ENTP)."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from nfilter import (
    JSON,
    Context,
    Contract,
    ContractError,
    Embeds,
    FloatArray,
    IntArray,
    ModelNeed,
    Needs,
    PackedTexts,
    Sample,
    StageConfig,
    State,
    hash_of,
    place_of,
)
from nfilter_entp.clusters import Near, best_tau, gathered, mmr
from nfilter_entp.neighbours import EXACT_UP_TO, Collector, nearest
from nfilter_entp.turns import instruction_of, unfit

_PAIRED, _UNFIT, _COPY, _ALONE, _ODD, _BEYOND = range(6)
_WHY = {
    _UNFIT: "unfit",
    _COPY: "copy",
    _ALONE: "alone",
    _ODD: "odd one out",
    _BEYOND: "beyond max_pairs",
}


class PairConfig(StageConfig):
    """``by``: ``like`` pairs within clusters, ``random`` any two, the control. ``max_pairs`` bounds both; null does not.

    ``tau`` is the cosine similarity at which two instructions are neighbours; ``auto`` takes the one of 0.30, 0.35, ...,
    0.95 with the best silhouette on ``sample`` instructions. A cluster has at most ``size``; each instruction is linked to
    its ``links`` nearest at most. ``mmr`` weighs likeness to the cluster against likeness to those chosen before.
    ``exact_up_to`` instructions are searched exactly, more in cells.
    """

    encoder: Annotated[str, Needs(Embeds)] = "encoder"
    into: str = "pair"
    by: Literal["like", "random"] = "like"
    tau: Annotated[float, Field(gt=-1, lt=1)] | Literal["auto"] = "auto"
    size: int = Field(default=25, ge=2, le=1000)
    mmr: float = Field(default=0.7, ge=0, le=1)
    max_pairs: int | None = Field(default=None, ge=0)
    sample: int = Field(default=2000, ge=10, le=20_000)
    links: int = Field(default=32, ge=1, le=1000)
    exact_up_to: int = Field(default=EXACT_UP_TO, ge=1)

    @model_validator(mode="after")
    def _as_many_links(self) -> PairConfig:
        if self.size > self.links + 1:
            raise ValueError(
                f"a cluster is an instruction and its links: {self.links} nearest, so none has size: {self.size}; type"
                f" links: {self.size - 1}, or size: {self.links + 1}"
            )
        return self


@dataclass
class _Rows:
    """What fit remembers of the rows: their ids, and by its number why a row cannot be mixed."""

    ids: list[str] = field(default_factory=list)
    unfit: dict[int, str] = field(default_factory=dict)


@dataclass
class _Found:
    """Pairs of instructions (the leading one first), in the order in which ``max_pairs`` counts them; and the clusters."""

    pairs: list[tuple[int, int]]
    label: npt.NDArray[np.int32]
    report: dict[str, JSON]


class Pair:
    """Writes on each sample with whom it is paired, and changes nothing else.

    Rows with the same instruction, but for case and blanks, are never paired: the one with the first id stands for
    all. Conversations of several turns stay unpaired.
    """

    name: ClassVar[str] = "entp.pair"
    Config: ClassVar[type[StageConfig]] = PairConfig

    def __init__(self, config: PairConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: PairConfig) -> Contract:
        """Writes one note, and needs an encoder."""
        return Contract(
            packages={"faiss": "nfilter[local]", "sklearn": "nfilter[local]"},
            writes=frozenset({config.into}),
            needs=(ModelNeed(config.encoder, Embeds, field="encoder"),),
        )

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """Embed the instructions and pair them.

        At its peak that takes 8 bytes a row and dimension, 12 a row and link, and some 300 a row beside them.
        """
        rows, embedded = _Rows(), Collector(ctx, self.config.encoder, text=instruction_of)
        with ctx.progress(None, "embedding instructions") as progress:
            for sample in stream:
                why = unfit(sample)
                if why is None:
                    embedded.add(sample)
                else:
                    rows.unfit[len(rows.ids)] = why
                rows.ids.append(sample.id)
                progress.advance()
        texts = embedded.texts()
        fit = np.array([row for row in range(len(rows.ids)) if row not in rows.unfit], np.int64)
        row_text = np.full(len(rows.ids), -1, dtype=np.int64)
        row_text[fit] = texts.row_text
        owner, tie = _owners(rows.ids, row_text, texts.n)
        found = self._pair(texts.vectors, tie, ctx)
        return self._state(rows, row_text, owner, texts.vectors, found, ctx)

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        """Note on each sample what was found."""
        ids = PackedTexts.open(state.arrays, "id")
        return [self._note(sample, state, ids) for sample in chunk]

    def _pair(self, vectors: FloatArray, tie: IntArray, ctx: Context) -> _Found:
        config, n = self.config, len(vectors)
        if config.by == "random":
            order = np.argsort(tie).tolist()
            ctx.rng("random").shuffle(order)
            pairs = list(zip(order[0::2], order[1::2], strict=False))
            return _Found(pairs, np.full(n, -1, dtype=np.int32), {})
        similarity, place = nearest(vectors, config.links, exact_up_to=config.exact_up_to)
        near = Near(similarity, place)
        near.settle(tie)
        report: dict[str, JSON] = {}
        tau = config.tau
        if tau == "auto":
            tau, tried = best_tau(vectors, near, config.size, tie, config.sample, ctx.rng("tau"))
            report["silhouette"] = {f"{key:g}": round(value, 4) for key, value in tried.items()}
            ctx.log.info(f"tau {tau:g} has the best silhouette, {tried[tau]:.3f}")
        label = gathered(vectors, near, tau, config.size, tie, config.exact_up_to)
        nearest_of = near.similarity[:, 0] if n else np.zeros(0, dtype=np.float32)
        sizes = Counter(np.bincount(label).tolist()) if n else Counter()
        report |= {
            "tau": tau,
            "clusters": len(set(label.tolist())),
            "sizes": {str(size): sizes[size] for size in sorted(sizes)},
            "nearest": _quartiles(nearest_of),
        }
        return _Found(self._within(label, vectors, tie), label, report)

    def _within(
        self, label: npt.NDArray[np.int32], vectors: FloatArray, tie: IntArray
    ) -> list[tuple[int, int]]:
        """Neighbours in each cluster's order, all clusters' first pairs before any second one, larger clusters first."""
        order = np.lexsort((tie, label))
        bounds = np.flatnonzero(np.diff(label[order], prepend=-1, append=-1))
        ranked: list[tuple[int, int, int, tuple[int, int]]] = []
        for start, end in itertools.pairwise(bounds):
            members = order[start:end]
            if len(members) < 2:
                continue
            best = members[mmr(vectors[members], tie[members], self.config.mmr)].tolist()
            for turn, pair in enumerate(zip(best[0::2], best[1::2], strict=False)):
                ranked.append((turn, -len(members), int(tie[pair[0]]), pair))
        return [pair for *_, pair in sorted(ranked)]

    def _state(
        self,
        rows: _Rows,
        row_text: IntArray,
        owner: IntArray,
        vectors: FloatArray,
        found: _Found,
        ctx: Context,
    ) -> State:
        """By the hash of its id, each row's partner (as a row), similarity, cluster, part and why it has no partner."""
        count = len(rows.ids)
        wanted = len(found.pairs) if self.config.max_pairs is None else self.config.max_pairs
        chosen, beyond = found.pairs[:wanted], found.pairs[wanted:]
        partner = np.full(count, -1, dtype=np.int64)
        similarity = np.full(count, np.nan, dtype=np.float32)
        cluster = np.full(count, -1, dtype=np.int32)
        lead = np.zeros(count, dtype=np.bool_)
        why = np.full(count, _ODD, dtype=np.uint8)
        known = np.flatnonzero(row_text >= 0)
        cluster[known] = found.label[row_text[known]]
        stands = np.zeros(count, dtype=np.bool_)
        stands[owner] = True
        if found.label.size and self.config.by == "like":
            alone = np.bincount(found.label)[found.label] == 1
            why[owner[alone]] = _ALONE
        copies = known[~stands[known]]
        why[copies], partner[copies] = _COPY, owner[row_text[copies]]
        why[list(rows.unfit)] = _UNFIT
        for pairs, code in ((chosen, _PAIRED), (beyond, _BEYOND)):
            for one, other in pairs:
                a, b = int(owner[one]), int(owner[other])
                alike = float(vectors[one].astype(np.float64) @ vectors[other])
                for row, mate in ((a, b), (b, a)):
                    partner[row], similarity[row], why[row] = mate, alike, code
                lead[a] = code == _PAIRED
        left = Counter(int(code) for code in why if code != _PAIRED)
        report = {
            **found.report,
            "rows": count,
            "pairs": len(chosen),
            "left_over": {_WHY[code]: left[code] for code in sorted(left)},
        }
        ctx.log.info(f"{len(chosen)} pairs of {count} rows")
        hashes = np.array([hash_of(name) for name in rows.ids], dtype=np.uint64)
        order = np.argsort(hashes)
        seat = np.empty(count, dtype=np.int64)
        seat[order] = np.arange(count)
        return State(
            {"report": report, "tau": found.report.get("tau")},
            {
                "row": hashes[order],
                "partner": np.where(partner >= 0, seat[partner], -1)[order],
                "similarity": similarity[order],
                "cluster": cluster[order],
                "lead": lead[order],
                "why": why[order],
                **PackedTexts.of(rows.ids[row] for row in order).arrays("id"),
            },
        )

    def _note(self, sample: Sample, state: State, ids: PackedTexts) -> Sample:
        arrays: Any = state.arrays
        row = place_of(arrays["row"], sample.id)
        if row is None or ids[row] != sample.id:
            raise ContractError(f"{self.name}: sample {sample.id!r} was not there to be paired")
        cluster = int(arrays["cluster"][row])
        group = cluster if cluster >= 0 else None
        mate = int(arrays["partner"][row])
        alike = float(arrays["similarity"][row])
        code = int(arrays["why"][row])
        if code == _PAIRED:
            leads = bool(arrays["lead"][row])
            note: dict[str, JSON] = {
                "with": ids[mate],
                "similarity": round(alike, 6),
                "cluster": group,
                "lead": leads,
            }
            where = "at random" if group is None else f"in cluster {group}"
            part = "it leads" if leads else "the other leads"
            return sample.note(self.config.into, note).keep(
                f"paired {where} with {ids[mate]}, similarity {alike:.3f}; {part}"
            )
        why = self._why(sample, code, state, ids[mate] if mate >= 0 else None)
        note = {"with": None, "why": why, "cluster": group, "lead": False}
        return sample.note(self.config.into, note).keep(f"not paired: {why}")

    def _why(self, sample: Sample, code: int, state: State, other: str | None) -> str:
        tau: Any = state.values.get("tau")
        if code == _UNFIT:
            return unfit(sample) or "it cannot be mixed"
        if code == _COPY:
            return f"its instruction is that of {other}, which stands for both"
        if code == _ALONE:
            return f"no other instruction within tau {tau:g} is without a cluster"
        if code == _BEYOND:
            return f"its pair with {other} is beyond max_pairs: {self.config.max_pairs}"
        return "its cluster is odd, and it came last" if tau is not None else "the number is odd"


def _owners(ids: Sequence[str], row_text: IntArray, n: int) -> tuple[IntArray, IntArray]:
    """For each of n texts the row with the first id that has it, and the rank of that id among these rows."""
    order = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)
    order = order[row_text[order] >= 0]
    first = np.unique(row_text[order], return_index=True)[1] if n else np.zeros(0, dtype=np.int64)
    tie = np.empty(n, dtype=np.int64)
    tie[np.argsort(first)] = np.arange(n)
    return order[first], tie


def _quartiles(values: FloatArray) -> JSON:
    """The quartiles of what is finite; null where nothing is."""
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    return [round(float(value), 4) for value in np.quantile(known, (0.25, 0.5, 0.75))]
