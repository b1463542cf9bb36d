"""``robustft.neighbors``: a view voted by the labels of each sample's nearest neighbours."""

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
    EncoderName,
    PackedTexts,
    Sample,
    StageConfig,
    State,
    View,
    hash_of,
    row_of,
    rows_by_id,
)
from nfilter_robustft.index import THRESHOLD
from nfilter_robustft.keys import text_of
from nfilter_robustft.labelled_rows import (
    LabelledRows,
    choose_reference,
    collect_rows,
    embed_queries,
    frequencies_of,
)
from nfilter_robustft.partitioned import (
    ChosenVectors,
    IndexSettings,
    Searchable,
    Vectors,
    build_index,
    index_figures,
    measured,
    open_index,
)
from nfilter_robustft.settings import IndexChoice, ReferenceSize, TrustedColumn
from nfilter_robustft.statistics import discriminant, similarity
from nfilter_robustft.vector_file import VectorFile
from nfilter_robustft.vote_notes import MAX_VOTES, no_answer_note, vote_note, weak_note

_BLOCK = 1024
_NO_VECTORS = np.zeros((0, 1), dtype=np.float32)
_COPIES = 16  # neighbours beyond k, because samples with the same query do not vote
_UNINFORMATIVE = "the neighbours' labels do not predict this dataset's labels"


class NeighborsConfig(StageConfig):
    """``k``: number of voters; ``auto`` chooses it by the likelihood of held-out noisy labels.

    ``weighting: similarity`` weights votes by similarity; ``discriminant`` learns a metric and cleans the voters'
    labels, which needs few distinct answers; ``auto`` uses the latter if possible. ``trusted`` names a column that
    marks labels known to be right; ``"@review"`` stands for the labels that a person decided. The metric is learned from
    at most ``reference`` samples.
    """

    encoder: EncoderName = "encoder"
    k: Annotated[int, Field(ge=1, le=1000)] | Literal["auto"] = Field(
        default="auto",
        description="Neighbours that vote, 1 to 1000; auto chooses the number by the likelihood of held-out labels.",
    )
    into: str = Field(default="neighbors", description="The note with the view.")
    weighting: Literal["auto", "similarity", "discriminant"] = Field(
        default="auto",
        description="similarity: votes count by cosine similarity; discriminant: by a metric learned from the labels; auto: discriminant where possible.",
    )
    trusted: TrustedColumn = None
    reference: ReferenceSize = 10_000
    index: IndexChoice = IndexSettings()


class Neighbors:
    """Stage that writes a view without calling any model but the encoder; a sample has no vote on itself.

    In discriminant mode ``votes`` are calibrated probabilities of the true answer (``calibrated`` true), in similarity
    mode shares of votes; ``support`` is that of the label. Options are identified by text, not by letter. If the votes
    predict held-out labels no better than frequencies, every answer is null, and ``votes`` and ``support`` are answer
    frequencies (of trusted rows, if any).
    """

    name: ClassVar[str] = "robustft.neighbors"
    Config: ClassVar[type[StageConfig]] = NeighborsConfig

    def __init__(self, config: NeighborsConfig) -> None:
        self.config = config
        self._index: tuple[State, Searchable] | None = None

    @classmethod
    def contract(cls, config: NeighborsConfig) -> Contract:
        return Contract(
            packages={"faiss": "nfilter[local]"},
            writes=frozenset({config.into}),
            views=frozenset({config.into}),
            measures={config.into: {}},
        )

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """Embed all queries and choose the settings of the vote."""
        encoders, trusted = [self.config.encoder], self.config.trusted
        if self.config.index.use != "ivf":
            rows = collect_rows(stream, ctx, encoders, trusted)
            return self._fit(rows, np.concatenate(rows.vectors[0] or [_NO_VECTORS]), ctx)
        with VectorFile() as vectors:
            rows = collect_rows(stream, ctx, encoders, trusted, keep=vectors.add)
            return self._fit(rows, vectors, ctx)

    def _fit(self, rows: LabelledRows, vectors: Vectors, ctx: Context) -> State:
        classes = rows.classes() if self.config.weighting != "similarity" else None
        if classes is not None:
            return self._fit_discriminant(rows, vectors, classes, ctx)
        if self.config.weighting == "discriminant":
            ctx.log.warning(
                "weighting: discriminant needs 2 to 64 distinct answers, the same options for all samples and ten"
                " samples per answer; neighbours vote by similarity instead"
            )
        return self._fit_similarity(rows, vectors, ctx)

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        if state.values.get("mode") == "discriminant":
            notes = [self._discriminant_note(sample, state, ctx) for sample in chunk]
        else:
            notes = self._similarity_notes(chunk, state, ctx)
        return [
            sample.note(self.config.into, note.to_json())
            for sample, note in zip(chunk, notes, strict=True)
        ]

    def _fixed_k(self) -> int | None:
        return None if self.config.k == "auto" else self.config.k

    # --- discriminant mode -------------------------------------------------------------------------------------

    def _fit_discriminant(
        self, rows: LabelledRows, vectors: Vectors, classes: list[str], ctx: Context
    ) -> State:
        labels = rows.encode(classes)
        rng = np.random.default_rng(ctx.rng("folds").getrandbits(64))
        chosen = choose_reference(labels, self.config.reference, rng)
        queries = np.array(rows.queries, dtype=np.uint64)
        if self.config.trusted and not labels.trusted.any():
            ctx.log.warning(f"trusted: column {self.config.trusted!r} marks no label as right")
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
            predict = discriminant.predictor(vectors[chosen], labels.take(chosen), votes)
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
                f"{setting.k} neighbours vote in the {figures['metric']} metric; estimated noise rate "
                f"{calibration.rate:.2f} (95% interval {calibration.low:.2f}-{calibration.high:.2f})"
            )
        else:
            ctx.log.warning(
                f"{_UNINFORMATIVE}: the view gives no answer. Either the encoder does not capture the answer, or the noise"
                " rate is close to chance; for the latter, mark a few hundred right ones and name their column:"
                " trusted: COLUMN"
            )
        return State(
            {
                "mode": "discriminant",
                "classes": classes,
                "informative": votes.informative,
                "frequencies": frequencies_of(rows),
                "report": {"neighbors": figures},
            },
            rows_by_id(rows.ids, probabilities=probabilities),
        )

    def _discriminant_note(self, sample: Sample, state: State, ctx: Context) -> View:
        row = row_of(state.arrays, sample.id, self.name)
        if not state.values["informative"]:
            return weak_note(sample, state, ctx, _UNINFORMATIVE)
        classes: Any = state.values["classes"]
        shares = dict(zip(classes, state.arrays["probabilities"][row].tolist(), strict=True))
        return vote_note(sample, shares, ctx, calibrated=True)

    # --- similarity mode ---------------------------------------------------------------------------------------

    def _fit_similarity(self, rows: LabelledRows, vectors: Vectors, ctx: Context) -> State:
        if not rows.ids:
            return State({"mode": "similarity", "rows": 0})
        known = [i for i, label in enumerate(rows.labels) if label is not None]
        labels = [str(rows.labels[i]) for i in known]
        distinct = sorted(set(labels))
        number = {label: code for code, label in enumerate(distinct)}
        codes = np.array([number[label] for label in labels], dtype=np.int64)
        of_known = ChosenVectors(vectors, np.array(known, dtype=np.int64))
        seed = ctx.rng("index").getrandbits(63)
        arrays: dict[str, npt.NDArray[Any]] = {
            **build_index(of_known, self.config.index, seed, THRESHOLD),
            "codes": codes,
            "queries": np.array([rows.queries[i] for i in known], dtype=np.uint64),
            **PackedTexts.of(distinct).arrays("answer"),
            **PackedTexts.of(rows.ids[i] for i in known).arrays("id"),
        }
        if not known:
            ctx.log.warning("no label has a readable answer: the neighbours have no votes")
            return State({"mode": "similarity", "rows": 0})
        rng = np.random.default_rng(ctx.rng("choice").getrandbits(64))
        stored: Vectors = of_known if "centroids" in arrays else arrays["vectors"]
        chosen = similarity.choose_voters(arrays, stored, rng, self._fixed_k())
        if chosen.informative:
            ctx.log.info(
                f"{chosen.k} neighbours vote by similarity at temperature {chosen.temperature:g}"
            )
        else:
            ctx.log.warning(
                f"{_UNINFORMATIVE} (held-out nll {chosen.nll:.3f}, {chosen.baseline:.3f} for frequencies): the view "
                "gives no answer; leave it out of the recipe, or give it another encoder"
            )
        figures: dict[str, JSON] = {
            "k": chosen.k,
            "metric": "cosine",
            "temperature": chosen.temperature,
            "nll": chosen.nll,
            "nll_of_frequencies": chosen.baseline,
            "informative": chosen.informative,
            **self._index_figures(arrays, of_known, chosen, ctx),
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

    def _index_figures(
        self,
        arrays: dict[str, npt.NDArray[Any]],
        vectors: Vectors,
        chosen: similarity.Choice,
        ctx: Context,
    ) -> dict[str, JSON]:
        """Return the figures of an index of lists, with its error; nothing for another index."""
        seed, compared = ctx.rng("compared").getrandbits(63), self.config.index.compared
        figures = index_figures(arrays, self.config.index)
        nearest = measured(arrays, vectors, chosen.k + _COPIES, compared, seed)
        if nearest is None:
            return {"index": figures} if figures else {}
        error = similarity.difference(nearest, arrays, chosen.k, chosen.temperature)
        ctx.log.info(
            f"index of {figures['lists']} lists: it finds {error.recall:.1%} of the {chosen.k} nearest voters, and {error.changed:.1%} of"
            f" flags differ from the exact ones ({len(nearest.queries)} queries compared)"
        )
        figures |= {"compared": len(nearest.queries), "recall": error.recall, "changed": error.changed}  # fmt: skip
        return {"index": figures}

    def _similarity_notes(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[View]:
        values: Any = state.values
        if not values["rows"] or not chunk:
            return [no_answer_note("there are no neighbours with a label") for _ in chunk]
        if not values["informative"]:
            return [weak_note(sample, state, ctx, _UNINFORMATIVE) for sample in chunk]
        if self._index is None or self._index[0] is not state:
            self._index = (state, open_index(state.arrays))
        k = values["k"]
        answers, ids = (PackedTexts.open(state.arrays, name) for name in ("answer", "id"))
        similarities, near = self._index[1].search(
            embed_queries(chunk, self.config.encoder, ctx), k + _COPIES
        )
        notes = []
        for sample, row_similarities, row_near in zip(chunk, similarities, near, strict=True):
            query = hash_of(text_of(sample, ctx))
            voters = [
                (float(s), int(i))
                for s, i in zip(row_similarities, row_near, strict=True)
                if i >= 0 and int(state.arrays["queries"][i]) != query
            ][:k]
            shares = similarity.vote_shares(
                [s for s, _ in voters],
                [answers[int(state.arrays["codes"][i])] for _, i in voters],
                values["temperature"],
            )
            names = [ids[i] for _, i in voters[:MAX_VOTES]]
            notes.append(
                vote_note(sample, _merge_equal(shares, ctx), ctx, calibrated=False, neighbors=names)
            )
        return notes


def _merge_equal(shares: dict[str, float], ctx: Context) -> dict[str, float]:
    """Sum the shares of answers that agree, under the one with the largest share; texts agree only if equal."""
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
