"""``evidence.cleanlab``: confident learning over the same encoder, as another verdict, for this benchmark only.

nfilter neither needs nor imports cleanlab: it comes with the extra ``evidence``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, ClassVar, Final

import numpy as np

from benchmarks.evidence.calibration import __name__ as calibration
from nfilter import (
    Context,
    Contract,
    Embeds,
    ModelNeed,
    Needs,
    Sample,
    StageConfig,
    State,
    hash_of,
    hookimpl,
    place_of,
)
from nfilter.registry.loading import GROUP, Plugins, load
from nfilter_robustft.keys import label_of, text_of

FOLDS: Final = 5


class CleanlabConfig(StageConfig):
    """``encoder`` embeds the questions, without their options; a logistic regression predicts the labels from that."""

    encoder: Annotated[str, Needs(Embeds)] = "encoder"
    into: str = "cleanlab"


class Cleanlab:
    """Flags the rows of ``cleanlab.filter.find_label_issues`` with its defaults.

    The probabilities are those of a logistic regression (1,000 iterations at most) over five folds that are not shuffled. The
    noise score is 1 less the probability of the label. A class is the text of an option. A label that only one fold has
    could not be foretold: classes of fewer than five rows are not flagged.
    """

    name: ClassVar[str] = "evidence.cleanlab"
    Config: ClassVar[type[StageConfig]] = CleanlabConfig

    def __init__(self, config: CleanlabConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: CleanlabConfig) -> Contract:
        """Writes one verdict."""
        return Contract(
            packages={"cleanlab": "nfilter[evidence]", "sklearn": "nfilter[evidence]"},
            writes=frozenset({config.into}),
            verdicts=frozenset({config.into}),
            needs=(ModelNeed(config.encoder, Embeds, field="encoder"),),
        )

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """Embed all questions and find the probably wrong labels."""
        samples = list(stream)
        texts = [text_of(sample, ctx) for sample in samples]
        vectors = np.asarray(ctx.model(self.config.encoder).embed(texts), dtype=np.float32)
        labels = [label_of(sample, ctx) or "" for sample in samples]
        flagged, scores = found(vectors, labels)
        keys = np.array([hash_of(sample.id) for sample in samples], dtype=np.uint64)
        order = np.argsort(keys, kind="stable")
        return State({}, {"ids": keys[order], "flagged": flagged[order], "scores": scores[order]})

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        """Write the verdict of each sample of the chunk."""
        return [self._judged(sample, state) for sample in chunk]

    def _judged(self, sample: Sample, state: State) -> Sample:
        place = place_of(state.arrays["ids"], sample.id)
        flagged = place is not None and bool(state.arrays["flagged"][place])
        score = 0.0 if place is None else float(state.arrays["scores"][place])
        said = "flagged" if flagged else "not flagged"
        note = {"flagged": flagged, "noise_score": score}
        return sample.note(self.config.into, note).keep(
            f"{said} by confident learning; the label has a probability of {1 - score:.2f}"
        )


def found(vectors: Any, labels: Sequence[str]) -> tuple[Any, Any]:
    """Return which labels are issues [n], and 1 minus the probability of each label [n]."""
    from cleanlab.filter import find_label_issues
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    _, codes, counts = np.unique(np.array(labels), return_inverse=True, return_counts=True)
    usable = counts[codes] >= FOLDS
    flagged, scores = np.zeros(len(codes), dtype=bool), np.zeros(len(codes))
    kept = np.unique(codes[usable])
    if len(kept) < 2:
        return flagged, scores
    own = np.searchsorted(kept, codes[usable])
    shares = cross_val_predict(
        LogisticRegression(max_iter=1000), vectors[usable], own, cv=FOLDS, method="predict_proba"
    )
    flagged[usable] = find_label_issues(own, shares, n_jobs=1)
    scores[usable] = 1 - shares[np.arange(len(own)), own]
    return flagged, scores


@hookimpl
def nfilter_stages() -> tuple[type[Any], ...]:
    """The stage."""
    return (Cleanlab,)


def with_evidence() -> Plugins:
    """Return the catalogue with this stage and the metrics of the evidence."""
    own = [EntryPoint(name, module, GROUP) for name, module in (("evidence", calibration), ("evidence-real", __name__))]  # fmt: skip
    return load((*entry_points(group=GROUP), *own))
