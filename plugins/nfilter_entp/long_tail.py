"""``entp.long_tail``: keep samples far from all others, since rare samples widen a dataset (DS2, arXiv 2410.10877)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, ClassVar

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
    Sample,
    StageConfig,
    State,
    row_of,
    rows_by_id,
)
from nfilter_entp.neighbours import EXACT_UP_TO, Collector, ExactUpTo, Texts, nearest
from nfilter_entp.notes import RatingNote

_FARTHEST = 2.0  # cosine distance of opposite vectors, assigned to a text without neighbours


class LongTailConfig(StageConfig):
    """``keep``: number of samples to keep (an integer: 100) or their share (a float: 0.5, 1.0).

    With ``by``, a note with labels (``curated``, ``rating``), higher labels come first, and the long-tail score ranks samples
    within a label. Distances are to the ``k`` nearest samples, by cosine similarity of query and response.
    """

    encoder: EncoderName
    keep: int | float = Field(
        default=0.5,
        description="What is kept: an integer is a number of samples (100), a float a share (0.5).",
    )
    by: str | None = Field(
        default=None,
        description="A note with ratings that rank before the long-tail score; null for none.",
    )
    into: str = Field(default="long_tail", description="The note with the score.")
    k: int = Field(default=10, ge=1, le=256, description="Nearest samples in the score, 1 to 256.")
    exact_up_to: ExactUpTo = EXACT_UP_TO

    @model_validator(mode="after")
    def _check_keep(self) -> LongTailConfig:
        if self.keep < 0 or (isinstance(self.keep, float) and self.keep > 1):
            raise ValueError(
                f"keep: {self.keep} is neither a number of samples (100) nor a share (0.0 to 1.0)"
            )
        return self


class LongTail:
    """Keeps the samples with the highest long-tail score, 2 / (1 + exp(-d)) - 1 with d the mean distance to k neighbours.

    Of several copies of a text, the first by a hash of the id has the text's score; the others score 0. Ties go by that hash too.
    Pinned samples stay, and count. Writes ``{"score", "distance", "rank", "copy"}``.
    """

    name: ClassVar[str] = "entp.long_tail"
    Config: ClassVar[type[StageConfig]] = LongTailConfig

    def __init__(self, config: LongTailConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: LongTailConfig) -> Contract:
        return Contract(
            packages={"faiss": "nfilter[local]"},
            reads=frozenset({config.by} if config.by is not None else ()),
            writes=frozenset({config.into}),
        )

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """Embed all texts and rank the samples.

        Memory: at most 8 bytes per dimension and distinct text, and about 500 bytes per row at k = 10. State: 21 bytes per row.
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
        n, pinned_count = len(texts.ids), sum(pinned)
        kept = self._number_to_keep(n, pinned_count, ctx)
        with ctx.progress(None, "searching neighbours"):
            similarity, near = nearest(
                texts.vectors, self.config.k, exact_up_to=self.config.exact_up_to
            )
        distances, copies = _distances(texts, similarity, near)
        order = np.lexsort((texts.ids, -distances, -np.array(labels), ~np.array(pinned, bool)))
        ranks = np.empty(n, dtype=np.int64)
        ranks[order] = np.arange(1, n + 1)
        figures: dict[str, JSON] = {
            "samples": n,
            "texts": texts.n,
            "copies": int(copies.sum()),
            "kept": kept,
            "score": _score_quartiles(distances),
            "score_of_kept": _score_quartiles(distances[ranks <= kept]),
        }
        ctx.log.info(f"{kept} of {n} samples kept")
        return State(
            {"n": n, "kept": kept, "report": {"long_tail": figures}},
            rows_by_id(
                texts.ids, ranks=ranks, distances=distances.astype(np.float32), copies=copies
            ),
        )

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        return [self._decide(sample, state) for sample in chunk]

    def _decide(self, sample: Sample, state: State) -> Sample:
        values: Any = state.values
        index = row_of(state.arrays, sample.id, self.name)
        rank, copy = int(state.arrays["ranks"][index]), bool(state.arrays["copies"][index])
        distance = float(state.arrays["distances"][index])
        score = long_tail_score(distance)
        note: Mapping[str, JSON] = {
            "score": round(score, 6),
            "distance": round(distance, 6),
            "rank": rank,
            "copy": copy,
        }
        by = f"label {self._label(sample)} in {self.config.by!r}, then " if self.config.by else ""
        description = "a copy of another sample" if copy else f"long-tail score {score:.3f}"
        kept = values["kept"]
        rule = f"keep: {self.config.keep} keeps the first {kept}"
        reason = f"long tail: rank {rank} of {values['n']} by {by}{description}; {rule}"
        noted = sample.note(self.config.into, note)
        if sample.pinned:
            return noted.keep(f"pinned; {reason}")
        return noted.keep(reason) if rank <= kept else noted.drop(reason)

    def _label(self, sample: Sample) -> int:
        """Return the label to rank by; -1, which ranks last, if it is null."""
        if self.config.by is None:
            return 0
        note = RatingNote.of(sample, self.config.by)
        if note is None:
            raise ContractError(
                f"sample {sample.id!r} has no label in note {self.config.by!r}; put entp.curate or entp.rate before"
                f" {self.name}, or leave out by"
            )
        return note.label if isinstance(note.label, int) else -1

    def _number_to_keep(self, n: int, pinned: int, ctx: Context) -> int:
        keep = self.config.keep
        # Decimal, as written in the recipe: in binary 0.29 * 100 is 28.999999999999996.
        kept = keep if isinstance(keep, int) else math.floor(Decimal(str(keep)) * n)
        if kept > n:
            ctx.log.warning(f"keep: {keep} exceeds the {n} samples, so all are kept")
        if pinned > kept:
            ctx.log.warning(f"{pinned} pinned samples stay, more than keep: {keep} allows")
        return max(min(kept, n), pinned)


def long_tail_score(distance: float) -> float:
    """Return the long-tail score of a mean distance d >= 0: 2 / (1 + exp(-d)) - 1, in [0, 1)."""
    return 2.0 / (1.0 + math.exp(-distance)) - 1.0


def _distances(
    texts: Texts, similarity: FloatArray, near: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return the mean cosine distance to the neighbours [rows], 0 for copies, and the mask of copies [rows]."""
    present = near >= 0
    distance = np.where(present, 1.0 - np.where(present, similarity, 0.0).astype(np.float64), 0.0)
    count = present.sum(axis=1)
    mean = np.where(count > 0, distance.sum(axis=1) / np.maximum(count, 1), _FARTHEST)
    order = np.lexsort((texts.ids, texts.row_text))
    copies = np.zeros(len(texts.ids), dtype=np.bool_)
    copies[order[1:]] = texts.row_text[order[1:]] == texts.row_text[order[:-1]]
    return np.where(copies, 0.0, np.clip(mean[texts.row_text], 0.0, _FARTHEST)), copies


def _score_quartiles(distances: npt.NDArray[np.float64]) -> dict[str, JSON] | None:
    """Return the quartiles of the scores."""
    if not len(distances):
        return None
    quartiles = np.quantile(distances, [0.0, 0.25, 0.5, 0.75, 1.0]).tolist()
    names = ("min", "q1", "median", "q3", "max")
    return {name: round(long_tail_score(d), 4) for name, d in zip(names, quartiles, strict=True)}
