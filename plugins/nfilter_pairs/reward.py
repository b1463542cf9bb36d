"""``pairs.reward``: a view from the log-probabilities that a model gives the two responses.

With a reference model the margin is the implicit reward of DPO without its factor beta (Rafailov et al., arXiv 2305.18290, Eq. 5):

    m = [log p(a | x) - log p_ref(a | x)] - [log p(b | x) - log p_ref(b | x)]
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from nfilter import (
    JSON,
    Context,
    Contract,
    Encodes,
    ModelNeed,
    Sample,
    Scores,
    StageConfig,
    State,
    View,
    hash_of,
    place_of,
    rows_by_id,
)
from nfilter_pairs.letters import A, B, Pair, pair_of, shares
from nfilter_pairs.mixture import Mirrored, fit, sigmoid

_BATCH = 64
_TRUE = frozenset({"true", "yes", "1"})


class RewardConfig(StageConfig):
    """``per: token`` divides log-probabilities by the number of tokens, so that length does not count."""

    model: str = Field(default="student", description="The model whose log-probabilities are read.")
    reference: str | None = Field(
        default=None,
        description="The model whose log-probabilities are subtracted, as in DPO; null subtracts none.",
    )
    per: Literal["response", "token"] = Field(
        default="response",
        description="response: sums of log-probabilities; token: means, so that length does not count.",
    )
    max_length: int = Field(
        default=2048, ge=2, description="Tokens of prompt and response, at most, at least 2."
    )
    trusted: str | None = Field(
        default=None,
        description="A column that marks pairs known to be right (true, yes or 1); with 20 of them the flip rate follows.",
    )
    into: str = Field(default="reward", description="The note with the view.")


class Reward:
    """Stage that writes a view: the response with the higher log-probability, and how much higher it is.

    The note has ``margin`` (of A over B, in nats), ``rank`` (the share of pairs whose label has a smaller margin) and, if the flip rate
    is identified by the margins or by trusted pairs, ``flipped``, the probability of a flip, and calibrated shares. A response that is
    cut at ``max_length`` gives no answer.
    """

    name: ClassVar[str] = "pairs.reward"
    Config: ClassVar[type[StageConfig]] = RewardConfig

    def __init__(self, config: RewardConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: RewardConfig) -> Contract:
        """Write a view, need models that encode and score."""
        named = [(config.model, "model")]
        if config.reference is not None:
            named.append((config.reference, "reference"))
        needs = tuple(
            ModelNeed(model, need, field=field)
            for model, field in named
            for need in (Encodes, Scores)
        )
        own = frozenset({config.into})
        return Contract(writes=own, views=own, measures={config.into: {}}, needs=needs)

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """Compute the margin of every pair, and fit the mixture of right and flipped ones; 16 bytes per pair."""
        ids: list[int] = []
        margins: list[float] = []
        signs: list[int] = []
        trusted: list[bool] = []
        rows = iter(stream)
        while batch := [pair_of(sample, ctx, self.name) for sample in islice(rows, _BATCH)]:
            ids += [hash_of(pair.sample.id) for pair in batch]
            signs += [pair.sign for pair in batch]
            trusted += [self._trusted(pair.sample) for pair in batch]
            margins += self._margins(batch, ctx)
        of_a = np.array(margins, dtype=np.float64)
        known = np.isfinite(of_a)
        of_label = of_a * np.array(signs, dtype=np.float64)
        marks = np.array(trusted, dtype=bool)
        if self.config.trusted is not None and not marks.any():
            ctx.log.warning(f"trusted: column {self.config.trusted!r} marks no pair as right")
        fitted = fit(of_label[known], marks[known])
        if fitted.identified:
            said = f"estimated flip rate {fitted.rate:.2f}"
        else:
            said = "the margins do not tell the flip rate, so they only rank pairs; trusted pairs would tell it"
        agree = float((of_label[known] > 0).mean()) if known.any() else 0.0
        ctx.log.info(
            f"{self.name}: {agree:.2f} of {int(known.sum())} labels have the higher log-probability; {said}"
        )
        report: dict[str, JSON] = {
            "scored": int(known.sum()),
            "agrees_with_label": round(agree, 6),
            "flip_rate": round(fitted.rate, 6) if fitted.identified else None,
        }
        return State(
            {
                "rate": fitted.rate,
                "mean": fitted.mean,
                "sd": fitted.sd,
                "identified": fitted.identified,
                "report": {"reward": report},
            },
            {
                **rows_by_id(np.array(ids, dtype=np.uint64), margins=of_a),
                "sorted": np.sort(of_label[known]),
            },
        )

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        """Write the view of each pair."""
        values: Any = state.values
        fitted = Mirrored(values["rate"], values["mean"], values["sd"], values["identified"])
        return [
            sample.note(self.config.into, self._view(sample, fitted, state, ctx).to_json())
            for sample in chunk
        ]

    def _view(self, sample: Sample, fitted: Mirrored, state: State, ctx: Context) -> View:
        pair = pair_of(sample, ctx, self.name)
        place = place_of(state.arrays["ids"], sample.id)
        margin = math.nan if place is None else float(state.arrays["margins"][place])
        if math.isnan(margin):
            failure = f"a response has no token within max_length: {self.config.max_length}"
            return View(None, calls=0, failure=failure)
        answer: str | None = None if margin == 0 else A if margin > 0 else B
        of_label = margin * pair.sign
        smaller = int(np.searchsorted(state.arrays["sorted"], of_label, side="left"))
        more: dict[str, JSON] = {
            "margin": round(margin, 6),
            "rank": round(smaller / max(len(state.arrays["sorted"]), 1), 6),
        }
        if fitted.identified:
            more["flipped"] = round(fitted.flipped(of_label), 6)
            # The view's own evidence, without its label and the flip rate: the check adds those.
            more |= shares(pair, sigmoid(fitted.evidence(margin)))
        why = None if answer else "both responses are equally likely"
        return View(answer, calls=0, failure=why, more=more)

    def _margins(self, pairs: Sequence[Pair], ctx: Context) -> list[float]:
        """Return the margin of A over B per pair; NaN if a response is cut or has no token."""
        own = self._sums(pairs, self.config.model, ctx)
        if self.config.reference is not None:
            own = own - self._sums(pairs, self.config.reference, ctx)
        return [float(a - b) for a, b in own]

    def _sums(self, pairs: Sequence[Pair], name: str, ctx: Context) -> Any:
        """Return the log-probabilities of A and B, float64 [n, 2]; NaN if a response is cut or has no token."""
        model = ctx.model(name)
        samples = [pair.with_response(letter) for pair in pairs for letter in (A, B)]
        encoded = model.encode(samples, max_length=self.config.max_length, turns="last")
        whole = [
            at for at, each in enumerate(encoded) if each.predicted.any() and not each.cut.any()
        ]
        out = np.full(len(samples), np.nan)
        for at, losses in zip(whole, model.score([encoded[at] for at in whole]), strict=True):
            reduce = np.nansum if self.config.per == "response" else np.nanmean
            out[at] = -float(reduce(np.asarray(losses, dtype=np.float64)))
        return out.reshape(-1, 2)

    def _trusted(self, sample: Sample) -> bool:
        value = None if self.config.trusted is None else sample.meta.get(self.config.trusted)
        return str(value).strip().lower() in _TRUE
