"""Training dynamics: samples that the model learns late or never have a low margin over training (arXiv 2001.10528)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from nfilter import (
    JSON,
    Context,
    Contract,
    FloatArray,
    ModelRef,
    Needs,
    Scores,
    Share,
    StageConfig,
    State,
    TokenSample,
    hookimpl,
    place_of,
    rows_by_id,
)

_SMALLEST = 1e-6


class SelectConfig(StageConfig):
    """``rounds``: trainings one after another with the recipe's trainer, each from the model before."""

    model: Annotated[str, Needs(Scores)] = Field(
        default="student", description="The model that is trained and whose token losses are read."
    )
    rounds: int = Field(
        default=3, ge=1, le=100, description="Trainings after which losses are read, 1 to 100."
    )
    keep: Share = Field(
        default=0.7, description="Share of the samples that is kept, above 0, at most 1."
    )
    into: str = Field(
        default="margin", description="The score with the sample's area under the margin."
    )


class Select:
    """Stage that keeps the samples with the highest area under the margin and masks all tokens of the others.

    The area under the margin (AUM; Pleiss et al., arXiv 2001.10528) is the mean over epochs of the label's logit minus the
    largest other logit. Token losses give a lower bound of that margin: the other labels share 1 - p, so it is at least
    log(p / (1 - p)), with equality where one label has all of the rest. The area here is the mean of this bound over
    rounds and over the tokens in the loss. The paper's threshold from samples of an invented class is replaced by ``keep``.

    A round is one training as ``train`` says (``epochs: 1`` makes it an epoch) on all samples, from the adapter of the round
    before; learning rate and its schedule begin anew each time. Of n samples, max(1, int(n * keep)) are kept; ties are ordered by id.
    """

    name: ClassVar[str] = "dynamics.select"
    Config: ClassVar[type[StageConfig]] = SelectConfig

    def __init__(self, config: SelectConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: SelectConfig) -> Contract:
        return Contract(writes=frozenset({config.into}), trains=True)

    def fit_tokens(self, stream: Iterable[TokenSample], ctx: Context) -> State:
        """Train and score in turn; the state takes 16 bytes per sample."""
        samples = [sample for sample in stream if (sample.predicted & sample.in_loss).any()]
        areas = np.zeros(len(samples))
        reference: ModelRef | None = None
        for number in range(self.config.rounds if samples else 0):
            ctx.log.info(f"{self.name}: round {number + 1} of {self.config.rounds}")
            reference = ctx.train(samples, reference)
            losses = ctx.model(self.config.model).score(samples, reference)
            areas += [_margin(one, loss) for one, loss in zip(samples, losses, strict=True)]
        areas /= self.config.rounds
        order = sorted(range(len(samples)), key=lambda i: (-areas[i], samples[i].id))
        kept = order[: max(1, int(len(order) * self.config.keep))]
        last: JSON = [float(areas[kept[-1]]), samples[kept[-1]].id] if kept else None
        report: JSON = {"samples": len(samples), "kept": len(kept)}
        arrays = rows_by_id([sample.id for sample in samples], areas=areas)
        return State({"last": last, "report": report}, arrays)

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Context, bit: int
    ) -> list[TokenSample]:
        return [self._decide(sample, state, bit) for sample in chunk]

    def _decide(self, sample: TokenSample, state: State, bit: int) -> TokenSample:
        place = place_of(state.arrays["ids"], sample.id)
        area = np.nan if place is None else float(state.arrays["areas"][place])
        values = np.where(sample.response, area, np.nan).astype(np.float32)
        scored = sample.score(self.config.into, values)
        last: Any = state.values["last"]
        if place is None or last is None or (-area, sample.id) <= (-last[0], last[1]):
            return scored
        return scored.mask(sample.weights != 0, bit)


def _margin(sample: TokenSample, losses: FloatArray) -> float:
    """Return the mean of log(p / (1 - p)) over the tokens in the loss."""
    pool = sample.predicted & sample.in_loss
    # A probability of 1 has no finite margin.
    loss = np.maximum(losses[pool].astype(np.float64), _SMALLEST)
    return float(np.mean(-loss - np.log(-np.expm1(-loss))))


@hookimpl
def nfilter_stages() -> list[type]:
    """Return the stage."""
    return [Select]
