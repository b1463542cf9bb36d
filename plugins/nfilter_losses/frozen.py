"""``prift.score``: the weight that an online rule gives each token under a frozen model, computed once before training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from nfilter import (
    Context,
    Contract,
    FloatArray,
    LendsModule,
    ModelNeed,
    Scores,
    StageConfig,
    State,
    TokenSample,
)
from nfilter_losses.deft import Deft, DeftConfig
from nfilter_losses.eaft import Eaft, EaftConfig

_LOGITS = 2**22


class FrozenConfig(StageConfig):
    """``rule``: the weight of a token, given the prediction of ``model``, the model before training."""

    model: str = Field(default="student", description="The model before training.")
    rule: Literal["dft", "profit", "deft", "eaft"] = Field(
        default="dft",
        description="dft: the probability p; profit: 1 from a probability on, else 0; deft: p^a; eaft: the entropy.",
    )
    least: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Smallest probability with weight 1 under the rule profit, 0 to 1.",
    )
    into: str = Field(default="prift", description="The score with the weight.")


class Frozen:
    """Stage that writes the weight of each response token by an online rule under the frozen base model.

    PriFT-prob (Wang et al., arXiv 2606.09396) is ``rule: dft``: w = p(label) of the pretrained model. The paper replaces
    the online model in other rules too, which the other values do: the weights are those of the losses ``profit``,
    ``deft`` and ``eaft`` before the first step. ``dft`` and ``profit`` read token losses; ``deft`` and ``eaft`` need all
    logits, so a local model. Nothing is masked; the loss ``prift`` reads the score. PriFT-mass is not implemented.
    """

    name: ClassVar[str] = "prift.score"
    Config: ClassVar[type[StageConfig]] = FrozenConfig

    def __init__(self, config: FrozenConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: FrozenConfig) -> Contract:
        need = Scores if config.rule in ("dft", "profit") else LendsModule
        return Contract(
            writes=frozenset({config.into}), needs=(ModelNeed(config.model, need, field="model"),)
        )

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Context, bit: int
    ) -> list[TokenSample]:
        pairs = zip(chunk, self._weights(chunk, ctx), strict=True)
        return [sample.score(self.config.into, weights) for sample, weights in pairs]

    def _weights(self, samples: Sequence[TokenSample], ctx: Context) -> list[FloatArray]:
        config = self.config
        if config.rule in ("dft", "profit"):
            found = [np.exp(-loss) for loss in ctx.model(config.model).score(samples)]
            if config.rule == "profit":
                found = [_at_least(p, config.least) for p in found]
            return found

        def read(missing: Sequence[TokenSample]) -> Iterator[FloatArray]:
            with ctx.model(config.model).lend() as lent:
                for sample in missing:
                    yield _by_logits(lent.module, sample, config.rule)

        return ctx.token_scores(config.model, f"{self.name}, {config.rule}", samples, read)


def _at_least(p: FloatArray, least: float) -> FloatArray:
    weights: FloatArray = np.where(np.isnan(p), p, p >= least).astype(np.float32)
    return weights


def _by_logits(module: Any, sample: TokenSample, rule: str) -> FloatArray:
    """Return the weights ([T], float32) of one sample; NaN for tokens without a prediction."""
    import torch

    out = np.full(len(sample.ids), np.nan, dtype=np.float32)
    where = np.flatnonzero(sample.predicted)
    if not len(where):
        return out
    device = next(module.parameters()).device
    ids = torch.from_numpy(np.array(sample.ids, dtype=np.int64)).to(device)
    deft, eaft = Deft(DeftConfig()), Eaft(EaftConfig())
    with torch.no_grad():
        logits = module(input_ids=ids[None, :-1], use_cache=False).logits[0]
        size = max(1, _LOGITS // logits.shape[-1])
        for start in range(0, len(where), size):
            at = where[start : start + size]
            rows, labels = logits[at - 1], ids[at]
            stats = deft.stats(rows, labels) if rule == "deft" else eaft.stats(rows, labels)
            (weights,) = stats.values()
            out[at] = weights.float().cpu().numpy()
    return out
