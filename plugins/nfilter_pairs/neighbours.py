"""``pairs.neighbours``: a view from the pairs with the most similar prompts.

With x the embedding of a prompt, and d that of its response A minus that of B, both normalised, the k nearest pairs j vote for A with

    v_i = sum_j max(0, cos(x_i, x_j)) cos(d_i, d_j) y_j

where y_j is 1 if the label of j is A, else -1: a neighbour says that the same direction is preferred here. No pair votes on
itself, nor does one with the same prompt. The probability of the label given v, sigmoid(beta v), is fitted to all labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from nfilter import (
    JSON,
    Context,
    Contract,
    Embeds,
    Needs,
    Sample,
    StageConfig,
    State,
    View,
    hash_of,
    place_of,
    rows_by_id,
)
from nfilter_pairs.letters import A, B, Pair, pair_of, shares
from nfilter_pairs.mixture import sigmoid

_BLOCK: Final = 256
_KS: Final = (5, 10, 20, 50)
_HALF_CHI2: Final = 1.9207  # half the 95% point of chi-squared with one degree of freedom
_UNINFORMATIVE: Final = "the neighbours' preferences do not predict those of held-out pairs"

Matrix = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]


class NeighboursConfig(StageConfig):
    """``least``: the probability of a response from which the view answers; below it the view has no answer."""

    encoder: Annotated[str, Needs(Embeds)] = Field(
        default="encoder", description="The model whose embeddings are compared."
    )
    k: Annotated[int, Field(ge=1, le=1000)] | Literal["auto"] = Field(
        default="auto",
        description="Pairs that vote, 1 to 1000; auto chooses 5, 10, 20 or 50 by the likelihood of held-out labels.",
    )
    least: float = Field(
        default=0.6,
        ge=0.5,
        lt=1,
        description="Probability of a response from which the view prefers it, 0.5 to below 1.",
    )
    reference: int = Field(
        default=20_000, ge=20, description="Pairs that vote, at most; at least 20."
    )
    into: str = Field(default="neighbours", description="The note with the view.")


class Neighbours:
    """Stage that writes a view without calling any model but the encoder.

    The note has the calibrated shares of both responses. Where the votes predict held-out labels no better than chance, no pair has
    an answer.
    """

    name: ClassVar[str] = "pairs.neighbours"
    Config: ClassVar[type[StageConfig]] = NeighboursConfig

    def __init__(self, config: NeighboursConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: NeighboursConfig) -> Contract:
        """Write a view."""
        own = frozenset({config.into})
        return Contract(writes=own, views=own, measures={config.into: {}})

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """Embed all prompts and responses, and let every pair's neighbours vote."""
        ids: list[int] = []
        prompts: list[int] = []
        labels: list[int] = []
        vectors: list[tuple[Matrix, Matrix]] = []
        rows = iter(stream)
        with ctx.progress(None, "embedding pairs") as progress:
            while block := [pair_of(sample, ctx, self.name) for sample in islice(rows, _BLOCK)]:
                texts = [(_prompt(pair), pair.a.content, pair.b.content) for pair in block]
                ids += [hash_of(pair.sample.id) for pair in block]
                prompts += [hash_of(prompt) for prompt, _, _ in texts]
                labels += [pair.sign for pair in block]
                vectors.append(self._embed(texts, ctx))
                progress.advance(len(block))
        if not ids:
            return State({"beta": 0.0})
        x = np.concatenate([each for each, _ in vectors])
        d = np.concatenate([each for _, each in vectors])
        y = np.array(labels, dtype=np.float64)
        rng = np.random.default_rng(ctx.rng("reference").getrandbits(64))
        voters = np.arange(len(y))
        if len(y) > self.config.reference:
            voters = np.sort(rng.choice(len(y), self.config.reference, replace=False))
        ks = _KS if self.config.k == "auto" else (self.config.k,)
        votes = _votes(_unit(x - x.mean(axis=0)), _unit(d), y, np.array(prompts), voters, ks)
        fits = {k: _fit_beta(votes[k] * y) for k in ks}
        best = max(fits, key=lambda k: fits[k][1])
        beta, gain = fits[best]
        informative = beta > 0 and gain > _HALF_CHI2
        share = float((votes[best] * y > 0).mean())
        if informative:
            ctx.log.info(f"{self.name}: {best} neighbours agree with {share:.2f} of the labels")
        else:
            ctx.log.warning(f"{_UNINFORMATIVE}: the view gives no answer")
        report: dict[str, JSON] = {
            "k": best,
            "agrees_with_label": round(share, 6),
            "informative": informative,
        }
        return State(
            {"beta": beta if informative else 0.0, "report": {"neighbours": report}},
            rows_by_id(np.array(ids, dtype=np.uint64), votes=votes[best]),
        )

    def _embed(self, texts: Sequence[tuple[str, str, str]], ctx: Context) -> tuple[Matrix, Matrix]:
        """Return the embeddings of the prompts, and of response A minus response B, [n, d] each."""
        flat = [text for row in texts for text in row]
        vectors = np.asarray(ctx.model(self.config.encoder).embed(flat), dtype=np.float32)
        vectors = vectors.reshape(len(texts), 3, -1)
        return vectors[:, 0], vectors[:, 1] - vectors[:, 2]

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        """Write the view of each pair."""
        beta: Any = state.values["beta"]
        return [
            sample.note(self.config.into, self._view(sample, float(beta), state, ctx).to_json())
            for sample in chunk
        ]

    def _view(self, sample: Sample, beta: float, state: State, ctx: Context) -> View:
        pair = pair_of(sample, ctx, self.name)
        if not beta:
            return View(None, calls=0, failure=_UNINFORMATIVE, more={"weak": _UNINFORMATIVE})
        place = place_of(state.arrays["ids"], sample.id)
        vote = 0.0 if place is None else float(state.arrays["votes"][place])
        p = sigmoid(beta * vote)
        answer = A if p >= self.config.least else B if 1 - p >= self.config.least else None
        if answer is None:
            return View(None, calls=0, failure="the neighbours are undecided", more={"vote": vote})
        return View(answer, calls=0, more={"vote": round(vote, 6), **shares(pair, p)})


def _prompt(pair: Pair) -> str:
    return "\n\n".join(turn.content for turn in pair.sample.context)


def _unit(vectors: Matrix) -> Matrix:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)


def _votes(
    x: Matrix,
    d: Matrix,
    y: Array,
    prompts: npt.NDArray[Any],
    voters: npt.NDArray[np.int64],
    ks: Sequence[int],
) -> dict[int, Array]:
    """Return the votes v [n] by k. ``x`` and ``d`` [n, dim] have unit rows, ``voters`` are the pairs that vote."""
    out = {k: np.zeros(len(y)) for k in ks}
    for start in range(0, len(y), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(y)))
        near = x[rows] @ x[voters].T
        near[prompts[rows][:, None] == prompts[voters][None, :]] = -np.inf
        most = min(max(ks), len(voters))
        top = np.argsort(-near, axis=1, kind="stable")[:, :most]
        weight = np.maximum(np.take_along_axis(near, top, axis=1), 0.0)
        direction = np.einsum("nd,nkd->nk", d[rows], d[voters[top]])
        each = weight * direction * y[voters[top]]
        for k in ks:
            out[k][rows] = each[:, :k].sum(axis=1)
    return out


def _fit_beta(agreement: Array) -> tuple[float, float]:
    """Return the beta that maximises the sum of log sigmoid(beta * v_i y_i), and its gain over beta 0, in nats."""
    scale = float(np.abs(agreement).mean())
    if scale == 0:
        return 0.0, 0.0
    v, beta = agreement / scale, 0.0
    for _ in range(100):
        p = 1.0 / (1.0 + np.exp(-np.clip(beta * v, -700, 700)))
        gradient = float((v * (1 - p)).sum()) - 1e-3 * beta
        curvature = float((v * v * p * (1 - p)).sum()) + 1e-3
        step = max(-1.0, min(1.0, gradient / curvature))
        beta += step
        if abs(step) < 1e-9:
            break
    gain = float(-np.logaddexp(0.0, -beta * v).sum()) + len(v) * math.log(2.0)
    return beta / scale, gain
