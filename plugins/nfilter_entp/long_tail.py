"""``entp.long_tail``: keeps what is far from everything else, as rare samples widen a set (DS2, arXiv 2410.10877)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, ClassVar

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
    ModelNeed,
    Needs,
    Sample,
    StageConfig,
    State,
    place_of,
)
from nfilter_entp.neighbours import EXACT_UP_TO, Collector, Texts, nearest

_FARTHEST = 2.0  # cosine distance of opposite vectors: what stands alone is as far as can be


class LongTailConfig(StageConfig):
    """``keep``: how many samples stay: a number of them (100), or a share in [0, 1] with a point (0.5, 1.0).

    With ``by``, a note with labels (``curated``, ``rating``), higher labels come first, and the long-tail score ranks
    those of one label. ``k`` neighbours by the cosine of query and response.
    """

    encoder: Annotated[str, Needs(Embeds)]
    keep: int | float = 0.5
    by: str | None = None
    into: str = "long_tail"
    k: int = Field(default=10, ge=1, le=256)
    exact_up_to: int = Field(default=EXACT_UP_TO, ge=1)

    @model_validator(mode="after")
    def _a_number_or_a_share(self) -> LongTailConfig:
        if self.keep < 0 or (isinstance(self.keep, float) and self.keep > 1):
            raise ValueError(
                f"keep: {self.keep} is neither a number of samples (100) nor a share from 0.0 to 1.0"
            )
        return self


class LongTail:
    """Keeps the samples of highest long-tail score, 2 / (1 + exp(-d)) - 1 with d the mean distance of k neighbours.

    Of several copies of a text the first, by a hash of the id, has the text's score; each other one is no rarity, and
    its score is 0. Ties go by that hash too. What a person pinned stays, and counts. Writes ``{"score", "distance",
    "rank", "copy"}``.
    """

    name: ClassVar[str] = "entp.long_tail"
    Config: ClassVar[type[StageConfig]] = LongTailConfig

    def __init__(self, config: LongTailConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: LongTailConfig) -> Contract:
        """Reads the labels where it ranks by them; writes the score."""
        return Contract(
            packages={"faiss": "nfilter[local]"},
            reads=frozenset({config.by} if config.by is not None else ()),
            writes=frozenset({config.into}),
            needs=(ModelNeed(config.encoder, Embeds, field="encoder"),),
        )

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """Embed all texts and rank the samples.

        In memory at most 8 bytes a dimension and distinct text, and some 500 bytes a row at k = 10; 21 bytes a row are
        kept.
        """
        rows = Collector(ctx, self.config.encoder)
        labels: list[int] = []
        pinned: list[bool] = []
        with ctx.progress(None, "embedding samples") as progress:
            for sample in stream:
                labels.append(self._label(sample))
                pinned.append(sample.pinned)
                rows.add(sample)
                progress.advance()
        texts = rows.texts()
        n, stay = len(texts.ids), sum(pinned)
        kept = self._count(n, stay, ctx)
        with ctx.progress(None, "searching neighbours"):
            similarity, near = nearest(
                texts.vectors, self.config.k, exact_up_to=self.config.exact_up_to
            )
        distances, copies = _distances(texts, similarity, near)
        order = np.lexsort((texts.ids, -distances, -np.array(labels), ~np.array(pinned, bool)))
        ranks = np.empty(n, dtype=np.int64)
        ranks[order] = np.arange(1, n + 1)
        by_id = np.argsort(texts.ids, kind="stable")
        figures: dict[str, JSON] = {
            "samples": n,
            "texts": texts.n,
            "copies": int(copies.sum()),
            "kept": kept,
            "score": _spread(distances),
            "score_of_kept": _spread(distances[ranks <= kept]),
        }
        ctx.log.info(f"{kept} of {n} samples are kept")
        return State(
            {"n": n, "kept": kept, "report": {"long_tail": figures}},
            {
                "ids": texts.ids[by_id],
                "ranks": ranks[by_id],
                "distances": distances[by_id].astype(np.float32),
                "copies": copies[by_id],
            },
        )

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        """Write the score of each sample of the chunk, and keep or drop it."""
        return [self._decide(sample, state) for sample in chunk]

    def _decide(self, sample: Sample, state: State) -> Sample:
        values: Any = state.values
        place = place_of(state.arrays["ids"], sample.id)
        if place is None:
            raise ContractError(
                f"{self.name}: sample {sample.id!r} was not there when the samples were ranked; a stage between must"
                " not change ids"
            )
        rank, copy = int(state.arrays["ranks"][place]), bool(state.arrays["copies"][place])
        distance = float(state.arrays["distances"][place])
        score = score_of(distance)
        note: Mapping[str, JSON] = {
            "score": round(score, 6),
            "distance": round(distance, 6),
            "rank": rank,
            "copy": copy,
        }
        by = f"label {self._label(sample)} in {self.config.by!r}, then " if self.config.by else ""
        what = "a copy of another sample" if copy else f"long-tail score {score:.3f}"
        kept = values["kept"]
        rule = f"keep: {self.config.keep} keeps the first {kept}"
        where = f"long tail: rank {rank} of {values['n']} by {by}{what}; {rule}"
        noted = sample.note(self.config.into, note)
        if sample.pinned:
            return noted.keep(f"pinned by a person; {where}")
        return noted.keep(where) if rank <= kept else noted.drop(where)

    def _label(self, sample: Sample) -> int:
        """The label that ranks; -1, which is last, where there is none."""
        if self.config.by is None:
            return 0
        note = sample.notes.get(self.config.by)
        if not isinstance(note, Mapping) or "label" not in note:
            raise ContractError(
                f"sample {sample.id!r} has no label in note {self.config.by!r}; put entp.curate or entp.rate before"
                f" {self.name}, or leave out by"
            )
        label = note["label"]
        return label if isinstance(label, int) else -1

    def _count(self, n: int, pinned: int, ctx: Context) -> int:
        keep = self.config.keep
        # In decimal, as the recipe has it: 0.29 * 100 is 28.999999999999996 in binary.
        kept = keep if isinstance(keep, int) else math.floor(Decimal(str(keep)) * n)
        if kept > n:
            ctx.log.warning(f"keep: {keep} of {n} samples keeps them all, and they are fewer")
        if pinned > kept:
            ctx.log.warning(
                f"{pinned} samples are pinned and stay, more than keep: {keep} asks for"
            )
        return max(min(kept, n), pinned)


def score_of(distance: float) -> float:
    """The long-tail score of a mean distance d >= 0: 2 / (1 + exp(-d)) - 1, in [0, 1)."""
    return 2.0 / (1.0 + math.exp(-distance)) - 1.0


def _distances(
    texts: Texts, similarity: FloatArray, near: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """The mean cosine distance [rows] to the neighbours, 0 for copies, and which rows are copies."""
    there = near >= 0
    apart = np.where(there, 1.0 - np.where(there, similarity, 0.0).astype(np.float64), 0.0)
    count = there.sum(axis=1)
    mean = np.where(count > 0, apart.sum(axis=1) / np.maximum(count, 1), _FARTHEST)
    order = np.lexsort((texts.ids, texts.row_text))
    copies = np.zeros(len(texts.ids), dtype=np.bool_)
    copies[order[1:]] = texts.row_text[order[1:]] == texts.row_text[order[:-1]]
    return np.where(copies, 0.0, np.clip(mean[texts.row_text], 0.0, _FARTHEST)), copies


def _spread(distances: npt.NDArray[np.float64]) -> dict[str, JSON] | None:
    """Quartiles of the scores."""
    if not len(distances):
        return None
    quartiles = np.quantile(distances, [0.0, 0.25, 0.5, 0.75, 1.0]).tolist()
    names = ("min", "q1", "median", "q3", "max")
    return {name: round(score_of(d), 4) for name, d in zip(names, quartiles, strict=True)}
