"""``robustft.classifier``: one more view, from a classifier that learns from all labels at once, wrong ones among them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import BeforeValidator, Field

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
    View,
    hash_of,
    place_of,
)
from nfilter_robustft import linear
from nfilter_robustft.graded import as_answers, note_of, unsure
from nfilter_robustft.keys import label_of, text_of
from nfilter_robustft.rows import Rows, frequencies_of, reference
from nfilter_robustft.views import with_notes

_BLOCK = 1024
_SILENT = "the vectors say nothing about this dataset's labels"
_MANY = "a classifier needs 2 to 64 distinct answers, the same options for all samples, and ten samples per answer"


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class ClassifierConfig(StageConfig):
    """``encoder``: one model that embeds, or a list of them; how much each counts is learned from the labels.

    ``trusted`` names a column that is true where a label is known to be right. The classifier learns from
    ``reference`` samples at most.
    """

    encoder: Annotated[
        list[str], Needs(Embeds), BeforeValidator(_listed), Field(min_length=1, max_length=8)
    ] = Field(default=["encoder"])
    into: str = "classifier"
    trusted: str | None = None
    reference: int = Field(default=10_000, ge=20)


@dataclass(slots=True)
class _Blocks:
    """Vectors of one encoder, block by block."""

    parts: list[FloatArray] = field(default_factory=list)

    def joined(self) -> FloatArray:
        return np.concatenate(self.parts)


class Classifier:
    """A view without a call to any model but the encoders. A sample's own label has no part in its votes.

    ``votes`` are calibrated probabilities of the true answer from the text alone, ``support`` that of the label;
    ``posterior`` takes the label itself into account: the likeliest ``answer`` and its probability ``p``, that of the
    label (``label``), and of how many answers (``of``). ``robustft.settle`` acts on it. Where the vectors foretell
    held-out labels no better than frequencies do, or where there are too many answers for a classifier, the answer is
    null and there is no posterior.
    """

    name: ClassVar[str] = "robustft.classifier"
    Config: ClassVar[type[StageConfig]] = ClassifierConfig

    def __init__(self, config: ClassifierConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: ClassifierConfig) -> Contract:
        """Writes one view."""
        return Contract(
            writes=frozenset({config.into}),
            views=frozenset({config.into}),
            measures={config.into: {}},
            needs=tuple(ModelNeed(name, Embeds, field="encoder") for name in config.encoder),
        )

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """Embed all queries, then learn."""
        rows = Rows()
        vectors = [_Blocks() for _ in self.config.encoder]
        block: list[Sample] = []
        with ctx.progress(None, "embedding queries") as progress:
            for sample in stream:
                rows.add(sample, ctx, self.config.trusted)
                block.append(sample)
                if len(block) == _BLOCK:
                    self._embed(block, vectors, rows, ctx)
                    block = []
                progress.advance()
            if block:
                self._embed(block, vectors, rows, ctx)
        classes = rows.classes()
        if classes is None:
            ctx.log.warning(
                f"{_MANY}: this view gives no answer; leave {self.name} out of the recipe"
            )
            return State(
                {
                    "why": _MANY,
                    "informative": False,
                    "frequencies": frequencies_of(rows),
                    "report": {"classifier": {"informative": False, "rows": len(rows.ids)}},
                }
            )
        return self._learn(rows, [each.joined() for each in vectors], classes, ctx)

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        """Write the view of each sample of the chunk."""
        notes = {sample.id: self._note(sample, state, ctx) for sample in chunk}
        return with_notes(chunk, self.config.into, notes)

    def _embed(
        self, samples: Sequence[Sample], into: Sequence[_Blocks], rows: Rows, ctx: Context
    ) -> None:
        if rows.are_open():  # no classifier will learn from these rows: nothing is spent on them
            return
        texts = [text_of(sample, ctx) for sample in samples]
        for name, blocks in zip(self.config.encoder, into, strict=True):
            blocks.parts.append(np.asarray(ctx.model(name).embed(texts), dtype=np.float32))

    def _learn(
        self, rows: Rows, vectors: Sequence[FloatArray], classes: list[str], ctx: Context
    ) -> State:
        labels = rows.coded(classes)
        if self.config.trusted and not labels.trusted.any():
            ctx.log.warning(
                f"trusted: no sample is marked as right in column {self.config.trusted!r}"
            )
        rng = np.random.default_rng(ctx.rng("reference").getrandbits(64))
        chosen = reference(labels, self.config.reference, rng)
        groups = np.array(rows.queries, dtype=np.uint64)
        with ctx.progress(None, "learning from the labels") as progress:
            found = linear.fit(
                [x[chosen] for x in vectors], labels.take(chosen), groups[chosen], progress.advance
            )
        before = np.empty((len(rows.ids), len(classes)), dtype=np.float32)
        after = np.empty_like(before)
        before[chosen], after[chosen] = found.held_out()
        others = np.setdiff1d(np.arange(len(rows.ids)), chosen)
        for start in range(0, len(others), _BLOCK):
            block = others[start : start + _BLOCK]
            before[block], after[block] = found.others(
                [x[block] for x in vectors], labels.take(block)
            )
        figures = self._figures(found)
        if found.informative:
            low, high = found.bounds
            ctx.log.info(
                f"the classifier puts the noise rate at {found.rate:.2f} (95% interval {low:.2f}-{high:.2f}), and its answers "
                f"are right with probability {float(before.max(axis=1).mean()):.2f} on average"
            )
        else:
            ctx.log.warning(
                f"{_SILENT} (held-out nll {found.nll:.3f}, that of their frequencies {found.baseline:.3f}): the view gives "
                "no answer. Either the encoder has no part in the answer, or about as many labels are wrong as chance "
                "would have it; then mark a hundred right ones and name their column: trusted: COLUMN"
            )
        keys = np.array([hash_of(name) for name in rows.ids], dtype=np.uint64)
        order = np.argsort(keys, kind="stable")
        return State(
            {
                "classes": classes,
                "why": _SILENT,
                "informative": found.informative,
                "frequencies": frequencies_of(rows),
                "report": {"classifier": figures},
            },
            {"ids": keys[order], "before": before[order], "after": after[order]},
        )

    def _figures(self, found: linear.Classifier) -> dict[str, JSON]:
        low, high = found.bounds
        weights: dict[str, float] = {}
        for member in found.members:
            name = " + ".join(self.config.encoder[i] for i in member.encoders)
            weights[name] = weights.get(name, 0.0) + member.weight
        return {
            "noise_rate": round(found.rate, 4),
            "noise_rate_low": round(low, 4),
            "noise_rate_high": round(high, 4),
            "nll": found.nll,
            "nll_of_frequencies": found.baseline,
            "informative": found.informative,
            "trusted": int(found.labels.trusted.sum()),
            "weights": {name: round(weight, 4) for name, weight in weights.items()},
        }

    def _note(self, sample: Sample, state: State, ctx: Context) -> View:
        values: Any = state.values
        if not values["informative"]:
            return unsure(sample, state, ctx, values["why"])
        place = place_of(state.arrays["ids"], sample.id)
        if place is None:
            raise ContractError(
                f"{self.name}: sample {sample.id!r} was not there when the classifier learned; "
                "a stage between must not change ids"
            )
        classes = values["classes"]
        before, after = (
            dict(zip(classes, state.arrays[name][place].tolist(), strict=True))
            for name in ("before", "after")
        )
        label = label_of(sample, ctx)
        named = as_answers(sample, after, ctx)
        answer = min(named, key=lambda name: (-named[name], name))
        posterior: dict[str, JSON] = {
            "answer": answer,
            "p": round(named[answer], 6),
            "label": 0.0 if label is None else round(after.get(label, 0.0), 6),
            "of": len(classes),
        }
        return note_of(sample, before, ctx, calibrated=True, posterior=posterior)
