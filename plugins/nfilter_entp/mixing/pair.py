"""``entp.pair``: disjoint pairs of samples with similar instructions, to be mixed (ENTP)."""

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
    EncoderName,
    FloatArray,
    IntArray,
    PackedTexts,
    Proportion,
    Sample,
    StageConfig,
    State,
    hash_of,
    place_of,
)
from nfilter_entp.mixing.clusters import Near, best_tau, cluster_all, mmr
from nfilter_entp.mixing.single_turn import instruction_of, unfit
from nfilter_entp.neighbours import EXACT_UP_TO, Collector, ExactUpTo, nearest

_PAIRED, _UNFIT, _COPY, _ALONE, _ODD, _BEYOND = range(6)
_REASONS = {
    _UNFIT: "unfit",
    _COPY: "copy",
    _ALONE: "alone",
    _ODD: "odd one out",
    _BEYOND: "beyond max_pairs",
}


class PairConfig(StageConfig):
    """``by``: ``like`` pairs within clusters; ``random`` pairs any two, as a control. ``max_pairs`` limits both; null is no limit.

    ``tau``: cosine similarity from which two instructions are neighbours; ``auto`` takes the one of 0.30, 0.35, ..., 0.95 with the best
    silhouette on ``sample`` instructions. A cluster has at most ``size`` instructions; each is linked to at most ``links`` nearest.
    ``mmr``: weight of similarity to the cluster against similarity to instructions chosen before. Up to ``exact_up_to``
    instructions are searched exactly, more approximately.
    """

    encoder: EncoderName = "encoder"
    into: str = Field(default="pair", description="The note with the partner.")
    by: Literal["like", "random"] = Field(
        default="like", description="like: pairs within clusters; random: any two, as a control."
    )
    tau: Annotated[float, Field(gt=-1, lt=1)] | Literal["auto"] = Field(
        default="auto",
        description="Cosine similarity, -1 to 1, from which two instructions are neighbours; auto chooses it by the silhouette.",
    )
    size: int = Field(
        default=25, ge=2, le=1000, description="Instructions per cluster, at most, 2 to 1000."
    )
    mmr: Proportion = Field(
        default=0.7, description="Weight of similarity to the cluster against novelty, 0 to 1."
    )
    max_pairs: int | None = Field(
        default=None, ge=0, description="Pairs, at most; null for no limit."
    )
    sample: int = Field(
        default=2000,
        ge=10,
        le=20_000,
        description="Instructions on which auto chooses tau, 10 to 20000.",
    )
    links: int = Field(
        default=32,
        ge=1,
        le=1000,
        description="Nearest instructions that each is linked to, at most, 1 to 1000.",
    )
    exact_up_to: ExactUpTo = EXACT_UP_TO

    @model_validator(mode="after")
    def _check_links(self) -> PairConfig:
        if self.size > self.links + 1:
            raise ValueError(
                f"a cluster is an instruction and its {self.links} links, so none reaches size: {self.size}; type"
                f" links: {self.size - 1}, or size: {self.links + 1}"
            )
        return self


@dataclass
class _Rows:
    """Row ids, and by row index the reason a row cannot be mixed."""

    ids: list[str] = field(default_factory=list)
    unfit: dict[int, str] = field(default_factory=dict)


@dataclass
class _Pairing:
    """Pairs of instructions (the leading one first) in the order in which ``max_pairs`` counts them; and the clusters."""

    pairs: list[tuple[int, int]]
    label: npt.NDArray[np.int32]
    report: dict[str, JSON]


class Pair:
    """Writes on each sample its partner, and changes nothing else.

    Rows with the same instruction, up to case and white space, are never paired: the one with the first id represents them.
    Multi-turn conversations stay unpaired.
    """

    name: ClassVar[str] = "entp.pair"
    Config: ClassVar[type[StageConfig]] = PairConfig

    def __init__(self, config: PairConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: PairConfig) -> Contract:
        return Contract(
            packages={"faiss": "nfilter[local]", "sklearn": "nfilter[local]"},
            writes=frozenset({config.into}),
        )

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """Embed the instructions and pair them.

        Peak memory: 8 bytes per row and dimension, 12 per row and link, and about 300 per row.
        """
        rows, collector = _Rows(), Collector(ctx, self.config.encoder, text=instruction_of)
        with ctx.progress(None, "embedding instructions") as progress:
            for sample in stream:
                why = unfit(sample)
                if why is None:
                    collector.add(sample)
                else:
                    rows.unfit[len(rows.ids)] = why
                rows.ids.append(sample.id)
                progress.advance()
        texts = collector.texts()
        mixable = np.array([row for row in range(len(rows.ids)) if row not in rows.unfit], np.int64)
        row_text = np.full(len(rows.ids), -1, dtype=np.int64)
        row_text[mixable] = texts.row_text
        representative, tie = _representatives(rows.ids, row_text, texts.n)
        pairing = self._make_pairs(texts.vectors, tie, ctx)
        return self._state(rows, row_text, representative, texts.vectors, pairing, ctx)

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        ids = PackedTexts.open(state.arrays, "id")
        return [self._write_note(sample, state, ids) for sample in chunk]

    def _make_pairs(self, vectors: FloatArray, tie: IntArray, ctx: Context) -> _Pairing:
        config, n = self.config, len(vectors)
        if config.by == "random":
            order = np.argsort(tie).tolist()
            ctx.rng("random").shuffle(order)
            pairs = list(zip(order[0::2], order[1::2], strict=False))
            return _Pairing(pairs, np.full(n, -1, dtype=np.int32), {})
        similarity, index = nearest(vectors, config.links, exact_up_to=config.exact_up_to)
        near = Near(similarity, index)
        near.sort_ties(tie)
        report: dict[str, JSON] = {}
        tau = config.tau
        if tau == "auto":
            tau, tried = best_tau(vectors, near, config.size, tie, config.sample, ctx.rng("tau"))
            report["silhouette"] = {f"{key:g}": round(value, 4) for key, value in tried.items()}
            ctx.log.info(f"tau {tau:g} has the best silhouette, {tried[tau]:.3f}")
        label = cluster_all(vectors, near, tau, config.size, tie, config.exact_up_to)
        nearest_of = near.similarity[:, 0] if n else np.zeros(0, dtype=np.float32)
        sizes = Counter(np.bincount(label).tolist()) if n else Counter()
        report |= {
            "tau": tau,
            "clusters": len(set(label.tolist())),
            "sizes": {str(size): sizes[size] for size in sorted(sizes)},
            "nearest": _quartiles(nearest_of),
        }
        return _Pairing(self._pairs_within(label, vectors, tie), label, report)

    def _pairs_within(
        self, label: npt.NDArray[np.int32], vectors: FloatArray, tie: IntArray
    ) -> list[tuple[int, int]]:
        """Return pairs of consecutive texts in each cluster's MMR order: all first pairs before second ones, larger clusters first."""
        order = np.lexsort((tie, label))
        bounds = np.flatnonzero(np.diff(label[order], prepend=-1, append=-1))
        ranked: list[tuple[int, int, int, tuple[int, int]]] = []
        for start, end in itertools.pairwise(bounds):
            members = order[start:end]
            if len(members) < 2:
                continue
            ordered = members[mmr(vectors[members], tie[members], self.config.mmr)].tolist()
            for round_index, pair in enumerate(zip(ordered[0::2], ordered[1::2], strict=False)):
                ranked.append((round_index, -len(members), int(tie[pair[0]]), pair))
        return [pair for *_, pair in sorted(ranked)]

    def _state(
        self,
        rows: _Rows,
        row_text: IntArray,
        representative: IntArray,
        vectors: FloatArray,
        pairing: _Pairing,
        ctx: Context,
    ) -> State:
        """Return the state: by id hash, each row's partner (a row index), similarity, cluster, lead flag and reason code."""
        count = len(rows.ids)
        limit = len(pairing.pairs) if self.config.max_pairs is None else self.config.max_pairs
        chosen, beyond = pairing.pairs[:limit], pairing.pairs[limit:]
        partner = np.full(count, -1, dtype=np.int64)
        similarity = np.full(count, np.nan, dtype=np.float32)
        cluster = np.full(count, -1, dtype=np.int32)
        lead = np.zeros(count, dtype=np.bool_)
        why = np.full(count, _ODD, dtype=np.uint8)
        known = np.flatnonzero(row_text >= 0)
        cluster[known] = pairing.label[row_text[known]]
        represents = np.zeros(count, dtype=np.bool_)
        represents[representative] = True
        if pairing.label.size and self.config.by == "like":
            singletons = np.bincount(pairing.label)[pairing.label] == 1
            why[representative[singletons]] = _ALONE
        copies = known[~represents[known]]
        why[copies], partner[copies] = _COPY, representative[row_text[copies]]
        why[list(rows.unfit)] = _UNFIT
        for pairs, code in ((chosen, _PAIRED), (beyond, _BEYOND)):
            for one, other in pairs:
                a, b = int(representative[one]), int(representative[other])
                pair_similarity = float(vectors[one].astype(np.float64) @ vectors[other])
                for row, partner_row in ((a, b), (b, a)):
                    partner[row], similarity[row], why[row] = partner_row, pair_similarity, code
                lead[a] = code == _PAIRED
        reason_counts = Counter(int(code) for code in why if code != _PAIRED)
        report = {
            **pairing.report,
            "rows": count,
            "pairs": len(chosen),
            "left_over": {_REASONS[code]: reason_counts[code] for code in sorted(reason_counts)},
        }
        ctx.log.info(f"{len(chosen)} pairs of {count} rows")
        hashes = np.array([hash_of(name) for name in rows.ids], dtype=np.uint64)
        order = np.argsort(hashes)
        sorted_index = np.empty(count, dtype=np.int64)
        sorted_index[order] = np.arange(count)
        return State(
            {"report": report, "tau": pairing.report.get("tau")},
            {
                "row": hashes[order],
                "partner": np.where(partner >= 0, sorted_index[partner], -1)[order],
                "similarity": similarity[order],
                "cluster": cluster[order],
                "lead": lead[order],
                "why": why[order],
                **PackedTexts.of(rows.ids[row] for row in order).arrays("id"),
            },
        )

    def _write_note(self, sample: Sample, state: State, ids: PackedTexts) -> Sample:
        arrays: Any = state.arrays
        row = place_of(arrays["row"], sample.id)
        if row is None or ids[row] != sample.id:
            raise ContractError(
                f"{self.name}: sample {sample.id!r} was absent when pairs were made"
            )
        cluster = int(arrays["cluster"][row])
        group = cluster if cluster >= 0 else None
        partner = int(arrays["partner"][row])
        similarity = float(arrays["similarity"][row])
        code = int(arrays["why"][row])
        if code == _PAIRED:
            leads = bool(arrays["lead"][row])
            note: dict[str, JSON] = {
                "with": ids[partner],
                "similarity": round(similarity, 6),
                "cluster": group,
                "lead": leads,
            }
            where = "at random" if group is None else f"in cluster {group}"
            role = "it leads" if leads else "the other leads"
            return sample.note(self.config.into, note).keep(
                f"paired {where} with {ids[partner]}, similarity {similarity:.3f}; {role}"
            )
        why = self._reason(sample, code, state, ids[partner] if partner >= 0 else None)
        note = {"with": None, "why": why, "cluster": group, "lead": False}
        return sample.note(self.config.into, note).keep(f"not paired: {why}")

    def _reason(self, sample: Sample, code: int, state: State, other: str | None) -> str:
        tau: Any = state.values.get("tau")
        if code == _UNFIT:
            return unfit(sample) or "it cannot be mixed"
        if code == _COPY:
            return f"it has the same instruction as {other}, which represents both"
        if code == _ALONE:
            return f"no instruction within tau {tau:g} is left without a cluster"
        if code == _BEYOND:
            return f"its pair with {other} is beyond max_pairs: {self.config.max_pairs}"
        return (
            "its cluster has an odd size, and it is last"
            if tau is not None
            else "the number of rows is odd"
        )


def _representatives(ids: Sequence[str], row_text: IntArray, n: int) -> tuple[IntArray, IntArray]:
    """Return for each of n texts the row with the first id that has it, and the rank of that id among these rows."""
    order = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)
    order = order[row_text[order] >= 0]
    first = np.unique(row_text[order], return_index=True)[1] if n else np.zeros(0, dtype=np.int64)
    tie = np.empty(n, dtype=np.int64)
    tie[np.argsort(first)] = np.arange(n)
    return order[first], tie


def _quartiles(values: FloatArray) -> JSON:
    """Return the quartiles of the finite values; null if there are none."""
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    return [round(float(value), 4) for value in np.quantile(known, (0.25, 0.5, 0.75))]
