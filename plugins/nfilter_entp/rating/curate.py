"""``entp.curate``: correct ratings with a score transition matrix and neighbours, then split (ENTP; DS2, arXiv 2410.10877)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from nfilter import (
    JSON,
    Context,
    Contract,
    ContractError,
    EncoderName,
    Sample,
    StageConfig,
    State,
    row_of,
    rows_by_id,
)
from nfilter_entp.neighbours import EXACT_UP_TO, Collector, ExactUpTo, Texts, nearest
from nfilter_entp.notes import RatingNote
from nfilter_entp.rating import estimate, votes
from nfilter_entp.rating.rate import CLASSES
from nfilter_entp.rating.transition import Array, Transition

_NO_LABEL = -1  # no label
_SUSPECT = 0.5  # a rating with a lower posterior is more likely wrong than right
_DEFAULT_CONFIDENCE = {"posterior": 0.9, "tail": 0.5}


class CurateConfig(StageConfig):
    """``by``: note with the ratings' labels, 0 to 5. The ``k`` nearest samples vote, by cosine similarity of query and response.

    ``method: posterior`` takes the most probable class, given T and p, the rating, and the neighbours' ratings. ``tail`` is DS2's rule:
    of each class, the share that its noise rate names, with the least agreeing neighbours, gets the neighbours' class. Both change a
    rating only if the class's probability, or its share of votes, is at least ``confidence``: default 0.9, for ``tail`` 0.5.
    ``noise: auto`` estimates T; a number states the share of wrong ratings, with all wrong classes equally likely; 0 changes nothing.

    ``keep: low`` drops labels from ``split`` on, ``high`` those below it; both drop samples without a rating.
    """

    encoder: EncoderName
    by: str = Field(default="rating", description="The note with the ratings, 0 to 5.")
    into: str = Field(default="curated", description="The note with the curated rating.")
    k: int = Field(default=10, ge=2, le=256, description="Nearest samples that vote, 2 to 256.")
    method: Literal["posterior", "tail"] = Field(
        default="posterior",
        description="posterior: the most probable class; tail: the rule of DS2.",
    )
    noise: Annotated[float, Field(ge=0, lt=0.5)] | Literal["auto"] = Field(
        default="auto",
        description="Share of wrong ratings, 0 to below 0.5; auto estimates it, 0 changes nothing.",
    )
    confidence: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None,
        description="Probability or share of votes, 0 to 1, from which a rating changes; by default 0.9, for tail 0.5.",
    )
    keep: Literal["all", "low", "high"] = Field(
        default="all", description="Which samples stay: all, those rated low, or those rated high."
    )
    split: int = Field(
        default=4, ge=1, le=CLASSES - 1, description="The first rating that counts as high, 1 to 5."
    )
    exact_up_to: ExactUpTo = EXACT_UP_TO


class Curate:
    """Corrects ratings, and keeps all samples or those of low or high quality.

    Writes ``{"given", "label", "confidence", "score", "suspect", "changed"}``: the label before and after correction, the confidence in
    the corrected label, the agreement of the original one with the neighbours (both in [0, 1]), and whether this is below 0.5: a
    rating may be suspect without a confident alternative. All are null without a rating. If T cannot be trusted, no rating
    changes, and a warning names the settings to type.
    """

    name: ClassVar[str] = "entp.curate"
    Config: ClassVar[type[StageConfig]] = CurateConfig

    def __init__(self, config: CurateConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: CurateConfig) -> Contract:
        return Contract(
            packages={"faiss": "nfilter[local]"},
            reads=frozenset({config.by}),
            writes=frozenset({config.into}),
        )

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """Embed all texts, estimate T and p, and correct the ratings.

        Memory: at most 12 bytes per dimension and distinct text, and about 700 bytes per row at k = 10. State: 18 bytes per row.
        """
        rows = Collector(ctx, self.config.encoder)
        labels: list[int] = []
        failure = ""
        with ctx.progress(None, "embedding samples") as progress:
            for sample in stream:
                label = self._given_label(sample)
                labels.append(_NO_LABEL if label is None else label)
                if label is None and not failure:
                    failure = str(self._rating_note(sample).failure)
                rows.add(sample)
                progress.advance()
        given = np.array(labels, dtype=np.int64)
        if len(given) and (given == _NO_LABEL).all():
            raise ContractError(
                f"{self.name}: none of {len(given)} samples has a rating in note {self.config.by!r}; the first failure: {failure}"
            )
        values, arrays = self._curate_ratings(rows.texts(), given, ctx)
        return State(values, arrays)

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        return [self._decide(sample, state) for sample in chunk]

    def _rating_note(self, sample: Sample) -> RatingNote:
        note = RatingNote.of(sample, self.config.by)
        if note is None:
            raise ContractError(
                f"sample {sample.id!r} has no rating in note {self.config.by!r}; put entp.rate before"
                f" {self.name}, or set by to the note that it writes"
            )
        return note

    def _given_label(self, sample: Sample) -> int | None:
        label = self._rating_note(sample).label
        if label is None:
            return None
        if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < CLASSES:
            raise ContractError(
                f"sample {sample.id!r}: note {self.config.by!r} has label {label!r}; a label is a number from 0 to {CLASSES - 1}"
            )
        return label

    def _curate_ratings(
        self, texts: Texts, given: npt.NDArray[np.int64], ctx: Context
    ) -> tuple[dict[str, JSON], dict[str, npt.NDArray[Any]]]:
        config = self.config
        rated = np.flatnonzero(given != _NO_LABEL)
        present = np.unique(given[rated])
        number = np.full(CLASSES, _NO_LABEL)
        number[present] = np.arange(len(present))
        classes = len(present)
        codes = number[given[rated]]
        row_text = texts.row_text[rated]
        majority = estimate.majority_classes(codes, row_text, texts.n, classes)
        with ctx.progress(None, "searching neighbours"):
            similarity, near = nearest(texts.vectors, config.k, majority >= 0, config.exact_up_to)
        estimated = estimate.estimate(majority, near, similarity, classes, config.noise)
        self._log_estimate(estimated, present, ctx)
        label, score, confidence = codes, *np.full((2, len(rated)), np.nan)
        if estimated.fit is not None and not estimated.doubts:
            voted = votes.count_votes(similarity, near, majority, classes)[row_text]
            ids = texts.ids[rated]
            label, score, confidence = _corrected(
                voted, codes, estimated.fit, estimated.n, ids, config
            )
        new = np.full(len(given), _NO_LABEL)
        new[rated] = present[label]
        figures_of_rows = np.full((2, len(given)), np.nan, dtype=np.float32)
        figures_of_rows[:, rated] = score, confidence
        arrays = rows_by_id(
            texts.ids,
            given=given.astype(np.int8),
            label=new.astype(np.int8),
            score=figures_of_rows[0],
            confidence=figures_of_rows[1],
        )
        changed = int((new != given).sum())
        ctx.log.info(f"{changed} of {len(rated)} ratings changed")
        counts = {
            "before": np.bincount(given[rated], minlength=CLASSES).tolist(),
            "after": np.bincount(new[rated], minlength=CLASSES).tolist(),
        }
        figures: dict[str, JSON] = {
            "samples": len(given),
            "rated": len(rated),
            "texts": texts.n,
            "changed": changed,
            **counts,
            **estimated.figures(present),
        }
        return {"doubts": list(estimated.doubts), "report": {"curate": figures}}, arrays

    def _log_estimate(
        self, estimated: estimate.Estimate, present: npt.NDArray[np.int64], ctx: Context
    ) -> None:
        absent = sorted(set(range(CLASSES)) - set(present.tolist()))
        if absent:
            ctx.log.info(
                f"no sample has rating {', '.join(map(str, absent))}: T and p are estimated for the others"
            )
        if estimated.doubts:
            ctx.log.warning(
                f"no rating changes, since the score transition matrix is not trusted: {'; '.join(estimated.doubts)}."
                " State the share of wrong ratings (noise: 0.2), leave ratings unchanged (noise: 0), or name an encoder"
                " that captures what is rated (encoder: NAME)"
            )
        elif estimated.fit is not None:
            ctx.log.info(f"estimated share of wrong ratings: {estimated.rate:.0%}")

    def _decide(self, sample: Sample, state: State) -> Sample:
        index = row_of(state.arrays, sample.id, self.name)
        arrays = state.arrays
        given, label = (_label_or_none(arrays[name][index]) for name in ("given", "label"))
        score, confidence = (
            _rounded_or_none(arrays[name][index]) for name in ("score", "confidence")
        )
        noted = sample.note(
            self.config.into,
            {
                "given": given,
                "label": label,
                "confidence": confidence,
                "score": score,
                "suspect": None if score is None else score < _SUSPECT,
                "changed": given != label,
            },
        )
        return self._keep_or_drop(noted, _describe(given, label, confidence, state), label)

    def _keep_or_drop(self, sample: Sample, description: str, label: int | None) -> Sample:
        keep, split = self.config.keep, self.config.split
        if keep == "all":
            return sample.keep(f"curate: {description}")
        kept_labels = "labels below" if keep == "low" else "labels from"
        rule = f"keep: {keep} keeps {kept_labels} {split}"
        matches = label is not None and (label < split) == (keep == "low")
        if matches:
            return sample.keep(f"curate: {description}; {rule}")
        if sample.pinned:
            return sample.keep(f"pinned; curate: {description}, and {rule}")
        return sample.drop(f"curate: {description}; {rule}")


def _corrected(
    voted: Array,
    codes: npt.NDArray[np.int64],
    fit: Transition,
    n: int,
    ids: npt.NDArray[np.uint64],
    config: CurateConfig,
) -> tuple[npt.NDArray[np.int64], Array, Array]:
    """Return labels, scores and confidences of rated rows; ``n`` is the number of texts T was estimated from, 0 if it was stated."""
    at = np.arange(len(codes))
    if config.method == "posterior":
        probabilities = votes.probabilities(voted, codes, fit, n)
        score = probabilities[at, codes]
        candidates = np.ones(len(codes), dtype=np.bool_)
    else:
        total = voted.sum(axis=1, keepdims=True)
        probabilities = voted / np.where(total > 0, total, 1.0)
        score = votes.agreement(voted, codes)
        candidates = votes.lowest_scores(score, codes, fit.noise_rates(), ids)
    # On ties the original rating stays.
    top = probabilities.argmax(axis=1)
    top = np.where(probabilities[at, codes] >= probabilities[at, top], codes, top)
    least = _DEFAULT_CONFIDENCE[config.method] if config.confidence is None else config.confidence
    confident = probabilities[at, top] >= least
    label = np.where(candidates & confident, top, codes)
    return label, score, probabilities[at, label]


def _label_or_none(value: Any) -> int | None:
    return None if int(value) == _NO_LABEL else int(value)


def _rounded_or_none(value: Any) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)


def _describe(given: int | None, label: int | None, confidence: float | None, state: State) -> str:
    if given is None:
        return "no rating"
    if confidence is None:
        return (
            f"label {label} as rated, since the transition matrix is not trusted"
            if state.values["doubts"]
            else f"label {label} as rated"
        )
    if given != label:
        return f"label {label} instead of the rated {given} (confidence {confidence:.2f})"
    return f"label {label} as rated (confidence {confidence:.2f})"
