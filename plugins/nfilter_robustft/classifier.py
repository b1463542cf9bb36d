"""``robustft.classifier``: a view from a classifier that is trained on all noisy labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import BeforeValidator, Field

from nfilter import (
    JSON,
    Context,
    Contract,
    Embeds,
    FloatArray,
    Needs,
    Sample,
    StageConfig,
    State,
    View,
    row_of,
    rows_by_id,
)
from nfilter_robustft.keys import label_of
from nfilter_robustft.labelled_rows import (
    LabelledRows,
    choose_reference,
    collect_rows,
    frequencies_of,
)
from nfilter_robustft.settings import ReferenceSize, TrustedColumn
from nfilter_robustft.statistics import linear
from nfilter_robustft.views import add_notes
from nfilter_robustft.vote_notes import shares_by_answer, vote_note, weak_note

_BLOCK = 1024
_UNINFORMATIVE = "the vectors do not predict this dataset's labels"
_MOST_CLASSES = 200
_TOO_MANY = f"a classifier needs 2 to {_MOST_CLASSES} distinct answers, the same options for all samples, and ten samples per answer"


def _estimated(fitted: linear.Classifier) -> dict[str, JSON]:
    """Return the noise rate as the reports of a run read it; nothing where the vectors predict no label."""
    if not fitted.informative:
        return {}
    low, high = fitted.bounds
    rate: dict[str, JSON] = {
        "estimate": round(fitted.rate, 6),
        "low": round(low, 6),
        "high": round(high, 6),
    }
    return {"estimated_noise_rate": rate}


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class ClassifierConfig(StageConfig):
    """``encoder``: an embedding model, or a list of them, whose weights are learned from the labels.

    ``trusted`` names a column that marks labels known to be right. At most ``reference`` samples are used for training.
    """

    encoder: Annotated[
        list[str],
        Needs(Embeds),
        BeforeValidator(_as_list, json_schema_input_type=str | list[str]),
        Field(min_length=1, max_length=8),
    ] = Field(
        default=["encoder"],
        description="The model, or a list of up to 8, whose embeddings are classified; their weights are learned.",
    )
    into: str = Field(default="classifier", description="The note with the view.")
    trusted: TrustedColumn = None
    reference: ReferenceSize = 10_000


class Classifier:
    """Stage that writes a view without calling any model but the encoders; a sample's own label has no vote.

    ``votes`` are calibrated probabilities of the true answer from the text alone, ``support`` that of the label.
    ``posterior`` also uses the label: the most likely ``answer`` and its probability ``p``, the probability of the
    label (``label``), and the number of answers (``of``), for ``robustft.settle``. If the vectors predict held-out
    labels no better than frequencies, or there are too many answers, the answer is null and there is no posterior.
    """

    name: ClassVar[str] = "robustft.classifier"
    Config: ClassVar[type[StageConfig]] = ClassifierConfig

    def __init__(self, config: ClassifierConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: ClassifierConfig) -> Contract:
        return Contract(
            writes=frozenset({config.into}),
            views=frozenset({config.into}),
            measures={config.into: {}},
        )

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """Embed all queries and train the classifier."""
        rows = collect_rows(
            stream, ctx, self.config.encoder, self.config.trusted, closed=_MOST_CLASSES
        )
        classes = rows.classes(_MOST_CLASSES)
        if classes is None:
            ctx.log.warning(
                f"{_TOO_MANY}: this view gives no answer; leave {self.name} out of the recipe"
            )
            return State(
                {
                    "why": _TOO_MANY,
                    "informative": False,
                    "frequencies": frequencies_of(rows),
                    "report": {"classifier": {"informative": False, "rows": len(rows.ids)}},
                }
            )
        return self._train(rows, [np.concatenate(blocks) for blocks in rows.vectors], classes, ctx)

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        notes = {sample.id: self._note(sample, state, ctx) for sample in chunk}
        return add_notes(chunk, self.config.into, notes)

    def _train(
        self, rows: LabelledRows, vectors: Sequence[FloatArray], classes: list[str], ctx: Context
    ) -> State:
        labels = rows.encode(classes)
        if self.config.trusted and not labels.trusted.any():
            ctx.log.warning(f"trusted: column {self.config.trusted!r} marks no label as right")
        rng = np.random.default_rng(ctx.rng("reference").getrandbits(64))
        chosen = choose_reference(labels, self.config.reference, rng)
        groups = np.array(rows.queries, dtype=np.uint64)
        with ctx.progress(None, "learning from the labels") as progress:
            fitted = linear.fit(
                [x[chosen] for x in vectors], labels.take(chosen), groups[chosen], progress.advance
            )
        before = np.empty((len(rows.ids), len(classes)), dtype=np.float32)
        after = np.empty_like(before)
        before[chosen], after[chosen] = fitted.held_out()
        others = np.setdiff1d(np.arange(len(rows.ids)), chosen)
        for start in range(0, len(others), _BLOCK):
            block = others[start : start + _BLOCK]
            before[block], after[block] = fitted.others(
                [x[block] for x in vectors], labels.take(block)
            )
        figures = self._figures(fitted)
        if fitted.informative:
            low, high = fitted.bounds
            ctx.log.info(
                f"the classifier estimates a noise rate of {fitted.rate:.2f} (95% interval {low:.2f}-{high:.2f}); its mean "
                f"confidence is {float(before.max(axis=1).mean()):.2f}"
            )
            if len(classes) == 2 and not fitted.labels.trusted.any():
                ctx.log.info(
                    f"two answers: that most labels are right is assumed; a rate of {1 - fitted.rate:.2f} with the answers exchanged fits "
                    "as well, which only rows known to be right can tell apart"
                )
        else:
            ctx.log.warning(
                f"{_UNINFORMATIVE} (held-out nll {fitted.nll:.3f}, {fitted.baseline:.3f} for frequencies): the view gives "
                "no answer. Either the encoder does not capture the answer, or the noise rate is close to chance; for the "
                "latter, mark a hundred right ones and name their column: trusted: COLUMN"
            )
        return State(
            {
                "classes": classes,
                "why": _UNINFORMATIVE,
                "informative": fitted.informative,
                "frequencies": frequencies_of(rows),
                "report": {"classifier": figures, **_estimated(fitted)},
            },
            rows_by_id(rows.ids, before=before, after=after),
        )

    def _figures(self, fitted: linear.Classifier) -> dict[str, JSON]:
        low, high = fitted.bounds
        weights: dict[str, float] = {}
        for member in fitted.members:
            name = " + ".join(self.config.encoder[i] for i in member.encoders)
            weights[name] = weights.get(name, 0.0) + member.weight
        return {
            "noise_rate": round(fitted.rate, 4),
            "noise_rate_low": round(low, 4),
            "noise_rate_high": round(high, 4),
            "nll": fitted.nll,
            "nll_of_frequencies": fitted.baseline,
            "informative": fitted.informative,
            "trusted": int(fitted.labels.trusted.sum()),
            "weights": {name: round(weight, 4) for name, weight in weights.items()},
        }

    def _note(self, sample: Sample, state: State, ctx: Context) -> View:
        values: Any = state.values
        if not values["informative"]:
            return weak_note(sample, state, ctx, values["why"])
        row = row_of(state.arrays, sample.id, self.name)
        classes = values["classes"]
        before, after = (
            dict(zip(classes, state.arrays[name][row].tolist(), strict=True))
            for name in ("before", "after")
        )
        label = label_of(sample, ctx)
        probabilities = shares_by_answer(sample, after, ctx)
        answer = min(probabilities, key=lambda name: (-probabilities[name], name))
        posterior: dict[str, JSON] = {
            "answer": answer,
            "p": round(probabilities[answer], 6),
            "label": 0.0 if label is None else round(after.get(label, 0.0), 6),
            "of": len(classes),
        }
        return vote_note(sample, before, ctx, calibrated=True, posterior=posterior)
