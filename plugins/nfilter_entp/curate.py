"""``entp.curate``: ratings corrected by a score transition matrix and by neighbours, then split (ENTP; DS2, arXiv 2410.10877)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from nfilter import (
    JSON,
    Context,
    Contract,
    ContractError,
    Embeds,
    ModelNeed,
    Needs,
    Sample,
    StageConfig,
    State,
    place_of,
)
from nfilter_entp import estimate, votes
from nfilter_entp.neighbours import EXACT_UP_TO, Collector, Texts, nearest
from nfilter_entp.rate import CLASSES
from nfilter_entp.transition import Array, Transition

_NONE = -1  # a label that is not there
_SUSPECT = 0.5  # a rating with a lower posterior is more probably wrong than right
_SURE = {"posterior": 0.9, "tail": 0.5}


class CurateConfig(StageConfig):
    """``by``: the note with the ratings' labels, 0 to 5. ``k`` neighbours vote, by the cosine of query and response.

    ``method: posterior`` takes the most probable class, given T and p, the rating, and its neighbours' ratings;
    ``tail`` is DS2's rule: of each class as many as its noise rate says, those whose neighbours agree least, get the
    neighbours' class. Either way where its probability, or its share of the votes, is at least ``confidence``: 0.9, or 0.5
    for ``tail``. ``noise: auto`` estimates T; a share states how many ratings are wrong, each wrong class as likely; 0
    leaves the ratings as they are.

    ``keep: low`` drops labels from ``split`` on, ``high`` those below it; both drop what has no rating.
    """

    encoder: Annotated[str, Needs(Embeds)]
    by: str = "rating"
    into: str = "curated"
    k: int = Field(default=10, ge=2, le=256)
    method: Literal["posterior", "tail"] = "posterior"
    noise: Annotated[float, Field(ge=0, lt=0.5)] | Literal["auto"] = "auto"
    confidence: Annotated[float, Field(ge=0, le=1)] | None = None
    keep: Literal["all", "low", "high"] = "all"
    split: int = Field(default=4, ge=1, le=CLASSES - 1)
    exact_up_to: int = Field(default=EXACT_UP_TO, ge=1)


class Curate:
    """Corrects ratings and keeps all samples, or the half of low or of high quality.

    Writes ``{"given", "label", "confidence", "score", "suspect", "changed"}``: the label before and after, how sure the
    label after is, how well the one before agrees with the neighbours, both in [0, 1], and whether that is below 0.5,
    so that a rating can be found wrong without being sure enough of another. Without a rating all are null.
    Where T cannot be trusted, no rating changes, and a warning says what to type.
    """

    name: ClassVar[str] = "entp.curate"
    Config: ClassVar[type[StageConfig]] = CurateConfig

    def __init__(self, config: CurateConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: CurateConfig) -> Contract:
        """Reads the ratings, writes the curated labels."""
        return Contract(
            packages={"faiss": "nfilter[local]"},
            reads=frozenset({config.by}),
            writes=frozenset({config.into}),
            needs=(ModelNeed(config.encoder, Embeds, field="encoder"),),
        )

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """Embed all texts, estimate T and p, and correct the ratings.

        In memory at most 12 bytes a dimension and distinct text, and some 700 bytes a row at k = 10; 18 bytes a row
        are kept.
        """
        rows = Collector(ctx, self.config.encoder)
        labels: list[int] = []
        failure = ""
        with ctx.progress(None, "embedding samples") as progress:
            for sample in stream:
                label = self._given(sample)
                labels.append(_NONE if label is None else label)
                if label is None and not failure:
                    failure = str(self._rating(sample).get("failure"))
                rows.add(sample)
                progress.advance()
        given = np.array(labels, dtype=np.int64)
        if len(given) and (given == _NONE).all():
            raise ContractError(
                f"{self.name}: none of {len(given)} samples has a rating in note {self.config.by!r}; the first says: {failure}"
            )
        values, arrays = self._curated(rows.texts(), given, ctx)
        return State(values, arrays)

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        """Write the labels of the chunk, and keep or drop each sample."""
        return [self._decide(sample, state) for sample in chunk]

    def _rating(self, sample: Sample) -> Mapping[str, JSON]:
        note = sample.notes.get(self.config.by)
        if not isinstance(note, Mapping) or "label" not in note:
            raise ContractError(
                f"sample {sample.id!r} has no rating in note {self.config.by!r}; put entp.rate before"
                f" {self.name}, or set by to the name under which it writes"
            )
        return note

    def _given(self, sample: Sample) -> int | None:
        label = self._rating(sample)["label"]
        if label is None:
            return None
        if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < CLASSES:
            raise ContractError(
                f"sample {sample.id!r}: note {self.config.by!r} has label {label!r}; a label is a number from 0 to {CLASSES - 1}"
            )
        return label

    def _curated(
        self, texts: Texts, given: npt.NDArray[np.int64], ctx: Context
    ) -> tuple[dict[str, JSON], dict[str, npt.NDArray[Any]]]:
        config = self.config
        rated = np.flatnonzero(given != _NONE)
        present = np.unique(given[rated])
        number = np.full(CLASSES, _NONE)
        number[present] = np.arange(len(present))
        classes = len(present)
        codes = number[given[rated]]
        row_text = texts.row_text[rated]
        voices = estimate.voices(codes, row_text, texts.n, classes)
        with ctx.progress(None, "searching neighbours"):
            similarity, near = nearest(texts.vectors, config.k, voices >= 0, config.exact_up_to)
        found = estimate.estimate(voices, near, similarity, classes, config.noise)
        self._say(found, present, ctx)
        label, score, confidence = codes, *np.full((2, len(rated)), np.nan)
        if found.fit is not None and not found.doubts:
            voted = votes.counted(similarity, near, voices, classes)[row_text]
            ids = texts.ids[rated]
            label, score, confidence = _corrected(voted, codes, found.fit, found.n, ids, config)
        new = np.full(len(given), _NONE)
        new[rated] = present[label]
        figures_of_rows = np.full((2, len(given)), np.nan, dtype=np.float32)
        figures_of_rows[:, rated] = score, confidence
        order = np.argsort(texts.ids, kind="stable")
        arrays: dict[str, npt.NDArray[Any]] = {
            "ids": texts.ids[order],
            "given": given[order].astype(np.int8),
            "label": new[order].astype(np.int8),
            "score": figures_of_rows[0, order],
            "confidence": figures_of_rows[1, order],
        }
        changed = int((new != given).sum())
        ctx.log.info(f"{changed} of {len(rated)} ratings are changed")
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
            **found.figures(present),
        }
        return {"doubts": list(found.doubts), "report": {"curate": figures}}, arrays

    def _say(self, found: estimate.Estimate, present: npt.NDArray[np.int64], ctx: Context) -> None:
        absent = sorted(set(range(CLASSES)) - set(present.tolist()))
        if absent:
            ctx.log.info(
                f"no sample is rated {_listed(absent)}: T and p are estimated for the others"
            )
        if found.doubts:
            ctx.log.warning(
                f"no rating is changed, since the score transition matrix cannot be trusted: {'; '.join(found.doubts)}."
                " State how many ratings are wrong (noise: 0.2), leave them as they are (noise: 0), or name an encoder"
                " that sees what the ratings are about (encoder: NAME)"
            )
        elif found.fit is not None:
            ctx.log.info(f"about {found.rate:.0%} of the ratings are estimated to be wrong")

    def _decide(self, sample: Sample, state: State) -> Sample:
        place = place_of(state.arrays["ids"], sample.id)
        if place is None:
            raise ContractError(
                f"{self.name}: sample {sample.id!r} was not there when the ratings were curated; a stage between must"
                " not change ids"
            )
        arrays = state.arrays
        given, label = (_label(arrays[name][place]) for name in ("given", "label"))
        score, confidence = (_number(arrays[name][place]) for name in ("score", "confidence"))
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
        return self._kept(noted, _told(given, label, confidence, state), label)

    def _kept(self, sample: Sample, told: str, label: int | None) -> Sample:
        keep, split = self.config.keep, self.config.split
        if keep == "all":
            return sample.keep(f"curate: {told}")
        half = "labels below" if keep == "low" else "labels from"
        rule = f"keep: {keep} keeps {half} {split}"
        stays = label is not None and (label < split) == (keep == "low")
        if stays:
            return sample.keep(f"curate: {told}; {rule}")
        if sample.pinned:
            return sample.keep(f"pinned by a person; curate: {told}, and {rule}")
        return sample.drop(f"curate: {told}; {rule}")


def _corrected(
    voted: Array,
    codes: npt.NDArray[np.int64],
    fit: Transition,
    n: int,
    ids: npt.NDArray[np.uint64],
    config: CurateConfig,
) -> tuple[npt.NDArray[np.int64], Array, Array]:
    """Labels, scores and confidences of rated rows; T was estimated from ``n`` texts, or stated where that is 0."""
    at = np.arange(len(codes))
    if config.method == "posterior":
        shares = votes.probabilities(voted, codes, fit, n)
        score = shares[at, codes]
        doubted = np.ones(len(codes), dtype=np.bool_)
    else:
        total = voted.sum(axis=1, keepdims=True)
        shares = voted / np.where(total > 0, total, 1.0)
        score = votes.agreement(voted, codes)
        doubted = votes.tail(score, codes, fit.noise_rates(), ids)
    # Of equally probable classes the rating's own stands.
    best = shares.argmax(axis=1)
    best = np.where(shares[at, codes] >= shares[at, best], codes, best)
    least = _SURE[config.method] if config.confidence is None else config.confidence
    sure = shares[at, best] >= least
    label = np.where(doubted & sure, best, codes)
    return label, score, shares[at, label]


def _label(value: Any) -> int | None:
    return None if int(value) == _NONE else int(value)


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)


def _told(given: int | None, label: int | None, confidence: float | None, state: State) -> str:
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


def _listed(labels: Sequence[int]) -> str:
    return ", ".join(map(str, labels))
