"""``robustft.neighbors``: one more view of each sample, voted from the labels of its nearest neighbours."""

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
    Embeds,
    FloatArray,
    ModelNeed,
    Needs,
    PackedTexts,
    Sample,
    StageConfig,
    State,
    View,
    hash_of,
    place_of,
)
from nfilter_robustft import discriminant, similarity
from nfilter_robustft.graded import SHOWN, abstain, note_of, unsure
from nfilter_robustft.index import Index, build
from nfilter_robustft.keys import text_of
from nfilter_robustft.rows import Rows, frequencies_of, reference

_BLOCK = 1024
_COPIES = 16  # neighbours asked for beyond k, since copies of the sample's own query do not vote
_SILENT = "the neighbours' labels say nothing about this dataset's labels"


class NeighborsConfig(StageConfig):
    """``k`` neighbours, or chosen by how well they foretell labels that are held out; no truth is used.

    ``weighting``: ``similarity`` weighs plain neighbours; ``discriminant`` learns a metric from the labels and
    cleans the voters' labels, which needs few distinct answers; ``auto`` takes the latter where it can.
    ``trusted`` names a column that is true where a label is known to be right. The metric is learned from
    ``reference`` samples at most.
    """

    encoder: Annotated[str, Needs(Embeds)] = "encoder"
    k: Annotated[int, Field(ge=1, le=1000)] | Literal["auto"] = "auto"
    into: str = "neighbors"
    weighting: Literal["auto", "similarity", "discriminant"] = "auto"
    trusted: str | None = None
    reference: int = Field(default=10_000, ge=20)


class Neighbors:
    """A view without a call to any model but the encoder. A sample never votes on itself.

    In discriminant mode ``votes`` are calibrated probabilities of the true answer (``calibrated`` true), in
    similarity mode shares; ``support`` is the label's own. An option is known by its text, not by its letter.
    Where the votes foretell held-out labels no better than frequencies do, every sample's answer is null, in both modes;
    ``votes`` and ``support`` then are the frequencies of the answers, those of trusted rows where there are any.
    """

    name: ClassVar[str] = "robustft.neighbors"
    Config: ClassVar[type[StageConfig]] = NeighborsConfig

    def __init__(self, config: NeighborsConfig) -> None:
        self.config = config
        self._index: tuple[State, Index] | None = None

    @classmethod
    def contract(cls, config: NeighborsConfig) -> Contract:
        """Writes one view."""
        return Contract(
            packages={"faiss": "nfilter[local]"},
            writes=frozenset({config.into}),
            views=frozenset({config.into}),
            measures={config.into: {}},
            needs=(ModelNeed(config.encoder, Embeds, field="encoder"),),
        )

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """Embed all queries, then choose how neighbours vote."""
        rows = self._collect(stream, ctx)
        classes = rows.classes() if self.config.weighting != "similarity" else None
        if classes is not None:
            return self._discriminant(rows, classes, ctx)
        if self.config.weighting == "discriminant":
            ctx.log.warning(
                "weighting: discriminant needs 2 to 64 distinct answers, the same options for all samples and ten"
                " samples an answer; neighbours vote by similarity instead"
            )
        return self._similarity(rows, ctx)

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        """Write the view of each sample of the chunk."""
        if state.values.get("mode") == "discriminant":
            notes = [self._looked_up(sample, state, ctx) for sample in chunk]
        else:
            notes = self._voted(chunk, state, ctx)
        return [
            sample.note(self.config.into, note.to_json())
            for sample, note in zip(chunk, notes, strict=True)
        ]

    def _collect(self, stream: Iterable[Sample], ctx: Context) -> Rows:
        rows = Rows()
        block: list[Sample] = []
        with ctx.progress(None, "embedding queries") as progress:
            for sample in stream:
                rows.add(sample, ctx, self.config.trusted)
                block.append(sample)
                if len(block) == _BLOCK:
                    rows.vectors.append(self._embed(block, ctx))
                    block = []
                progress.advance()
            if block:
                rows.vectors.append(self._embed(block, ctx))
        return rows

    def _embed(self, samples: Sequence[Sample], ctx: Context) -> FloatArray:
        texts = [text_of(sample, ctx) for sample in samples]
        return np.asarray(ctx.model(self.config.encoder).embed(texts), dtype=np.float32)

    def _fixed_k(self) -> int | None:
        return None if self.config.k == "auto" else self.config.k

    # --- few answers: learned metric, cleaned voters -----------------------------------------------------------

    def _discriminant(self, rows: Rows, classes: list[str], ctx: Context) -> State:
        vectors = np.concatenate(rows.vectors)
        labels = rows.coded(classes)
        rng = np.random.default_rng(ctx.rng("folds").getrandbits(64))
        chosen = reference(labels, self.config.reference, rng)
        queries = np.array(rows.queries, dtype=np.uint64)
        if self.config.trusted and not labels.trusted.any():
            ctx.log.warning(
                f"trusted: no sample is marked as right in column {self.config.trusted!r}"
            )
        with ctx.progress(None, "choosing neighbours") as progress:
            votes = discriminant.fit(
                vectors[chosen],
                labels.take(chosen),
                queries[chosen],
                rng,
                self._fixed_k(),
                progress.advance,
            )
        probabilities = np.empty((len(vectors), len(classes)), dtype=np.float32)
        probabilities[chosen] = votes.probabilities
        others = np.setdiff1d(np.arange(len(vectors)), chosen)
        if len(others):
            predict = discriminant.voter(vectors[chosen], labels.take(chosen), votes)
            for start in range(0, len(others), _BLOCK):
                block = others[start : start + _BLOCK]
                probabilities[block] = predict(vectors[block])
        setting, calibration = votes.setting, votes.calibration
        figures: dict[str, JSON] = {
            "k": setting.k,
            "metric": "cosine" if setting.ridge is None else "discriminant",
            "ridge": setting.ridge,
            "noise_rate": round(calibration.rate, 4),
            "noise_rate_low": round(calibration.low, 4),
            "noise_rate_high": round(calibration.high, 4),
            "nll": calibration.nll,
            "nll_of_frequencies": votes.baseline,
            "informative": votes.informative,
            "trusted": int(labels.trusted.sum()),
        }
        if votes.informative:
            ctx.log.info(
                f"{setting.k} neighbours vote in the {figures['metric']} metric; they put the noise rate at "
                f"{calibration.rate:.2f} (95% interval {calibration.low:.2f}-{calibration.high:.2f})"
            )
        else:
            ctx.log.warning(
                f"{_SILENT}: the view gives no answer. Either the encoder has no part in the answer, or about as many"
                " labels are wrong as chance would have it; then mark a few hundred right ones and name their column:"
                " trusted: COLUMN"
            )
        keys = np.array([hash_of(name) for name in rows.ids], dtype=np.uint64)
        order = np.argsort(keys, kind="stable")
        return State(
            {
                "mode": "discriminant",
                "classes": classes,
                "informative": votes.informative,
                "frequencies": frequencies_of(rows),
                "report": {"neighbors": figures},
            },
            {"ids": keys[order], "probabilities": probabilities[order]},
        )

    def _looked_up(self, sample: Sample, state: State, ctx: Context) -> View:
        place = place_of(state.arrays["ids"], sample.id)
        if place is None:
            raise ContractError(
                f"{self.name}: sample {sample.id!r} was not there when the neighbours were counted; "
                "a stage between must not change ids"
            )
        if not state.values["informative"]:
            return unsure(sample, state, ctx, _SILENT)
        classes: Any = state.values["classes"]
        shares = dict(zip(classes, state.arrays["probabilities"][place].tolist(), strict=True))
        return note_of(sample, shares, ctx, calibrated=True)

    # --- any answers: similarity-weighted plurality ------------------------------------------------------------

    def _similarity(self, rows: Rows, ctx: Context) -> State:
        if not rows.ids:
            return State({"mode": "similarity", "rows": 0})
        known = [i for i, label in enumerate(rows.labels) if label is not None]
        labels = [str(rows.labels[i]) for i in known]
        distinct = sorted(set(labels))
        number = {label: code for code, label in enumerate(distinct)}
        codes = np.array([number[label] for label in labels], dtype=np.int64)
        arrays: dict[str, npt.NDArray[Any]] = {
            **build(np.concatenate(rows.vectors)[known]),
            "codes": codes,
            "queries": np.array([rows.queries[i] for i in known], dtype=np.uint64),
            **PackedTexts.of(distinct).arrays("answer"),
            **PackedTexts.of(rows.ids[i] for i in known).arrays("id"),
        }
        if not known:
            ctx.log.warning(
                "no label has an answer that can be read: the neighbours have nothing to vote with"
            )
            return State({"mode": "similarity", "rows": 0})
        rng = np.random.default_rng(ctx.rng("choice").getrandbits(64))
        chosen = similarity.choose(arrays, rng, self._fixed_k())
        if chosen.informative:
            ctx.log.info(
                f"{chosen.k} neighbours vote by similarity at temperature {chosen.temperature:g}"
            )
        else:
            ctx.log.warning(
                f"{_SILENT} (held-out nll {chosen.nll:.3f}, that of their frequencies {chosen.baseline:.3f}): the view "
                "gives no answer; leave it out of the recipe, or give it another encoder"
            )
        figures: dict[str, JSON] = {
            "k": chosen.k,
            "metric": "cosine",
            "temperature": chosen.temperature,
            "nll": chosen.nll,
            "nll_of_frequencies": chosen.baseline,
            "informative": chosen.informative,
        }
        return State(
            {
                "mode": "similarity",
                "rows": len(known),
                "informative": chosen.informative,
                "frequencies": frequencies_of(rows),
                "k": chosen.k,
                "temperature": chosen.temperature,
                "report": {"neighbors": figures},
            },
            arrays,
        )

    def _voted(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[View]:
        values: Any = state.values
        if not values["rows"] or not chunk:
            return [abstain("there are no neighbours with a label") for _ in chunk]
        if not values["informative"]:
            return [unsure(sample, state, ctx, _SILENT) for sample in chunk]
        if self._index is None or self._index[0] is not state:
            self._index = (state, Index.open(state.arrays))
        k = values["k"]
        answers, ids = (PackedTexts.open(state.arrays, name) for name in ("answer", "id"))
        found, near = self._index[1].search(self._embed(chunk, ctx), k + _COPIES)
        notes = []
        for sample, similarities, places in zip(chunk, found, near, strict=True):
            own = hash_of(text_of(sample, ctx))
            voters = [
                (float(s), int(p))
                for s, p in zip(similarities, places, strict=True)
                if p >= 0 and int(state.arrays["queries"][p]) != own
            ][:k]
            shares = similarity.shares(
                [s for s, _ in voters],
                [answers[int(state.arrays["codes"][p])] for _, p in voters],
                values["temperature"],
            )
            names = [ids[p] for _, p in voters[:SHOWN]]
            notes.append(
                note_of(sample, _merged(shares, ctx), ctx, calibrated=False, neighbors=names)
            )
        return notes


def _merged(shares: dict[str, float], ctx: Context) -> dict[str, float]:
    """Answers that agree vote together, under the one with most votes. Open texts are told apart by equality."""
    if ctx.answers.kind in ("choice", "text") or len(shares) < 2:
        return shares
    ranked = sorted(shares, key=lambda answer: (-shares[answer], answer))
    pairs = [(a, b) for i, b in enumerate(ranked) for a in ranked[:i]]
    same = dict(zip(pairs, ctx.answers.agree(pairs), strict=True))
    merged: dict[str, float] = {}
    for answer in ranked:
        head = next((a for a in merged if same.get((a, answer))), answer)
        merged[head] = merged.get(head, 0.0) + shares[answer]
    return merged
