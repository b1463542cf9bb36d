"""The protocols of trainers, and the result of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from nfilter.api.calls import ModelRef
from nfilter.api.model import Model
from nfilter.api.settings import StageConfig
from nfilter.api.stages import Context, Contract, Site, TokenLoss
from nfilter.api.types import JSON, TokenSample


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """The result of a training: the adapter and figures.

    ``resumed_from`` is the step of the checkpoint that training resumed from; None if it started from the beginning.
    ``settings`` are the main settings (batch size, epochs, learning rate), including those that the trainer chose.
    ``seconds_per_step`` is the time of an optimiser step without the work before the first one; None if it was not measured.
    """

    ref: ModelRef
    steps: int
    tokens: int
    losses: tuple[float, ...]
    seconds: float
    resumed_from: int | None = None
    settings: Mapping[str, JSON] = field(default_factory=dict)
    seconds_per_step: float | None = None


class Trainer(Protocol):
    """Fine-tunes a model on weighted tokens and saves an adapter in PEFT format under ``out``.

    ``out`` is new, or has the files of an interrupted training with equal tokens, settings, model and start, from which the
    trainer may resume.
    """

    name: ClassVar[str]
    Config: ClassVar[type[StageConfig]]

    @classmethod
    def contract(cls, config: Any) -> Contract: ...

    @classmethod
    def memory(cls, config: Any, model_config: Any, site: Site) -> Mapping[str, float]:
        """Return the estimated memory in bytes by part (``weights``, ``optimizer``, ...); empty if it is unknown."""
        ...

    def __init__(self, config: Any) -> None: ...

    def train(
        self,
        samples: Sequence[TokenSample],
        model: Model,
        out: Path,
        ctx: Context,
        start: ModelRef | None = None,
    ) -> TrainingResult: ...


@runtime_checkable
class ChoosesSettings(Protocol):
    """A trainer that chooses settings that the recipe leaves open, from the rows and the model."""

    @classmethod
    def fits_rows(cls, config: Any) -> bool:
        """Whether its choice for an arm depends on ``Context.rows``."""
        ...

    @classmethod
    def foretold(cls, config: Any, model_config: Any, site: Site, rows: int | None) -> Foretold:
        """Describe a training on ``rows`` rows, None if the number is unknown. Loads nothing."""
        ...


@runtime_checkable
class CountsSteps(Protocol):
    """A trainer that counts its optimiser steps beforehand, so that a few of them measure the time of a training."""

    @classmethod
    def steps(cls, config: Any, samples: int, rows: int) -> int:
        """Return the optimiser steps of an arm with ``samples`` samples in a run of ``rows`` rows. Loads nothing."""
        ...

    @classmethod
    def first_steps(cls, config: Any, rows: int, steps: int) -> Any:
        """Return the settings for ``steps`` optimiser steps, each like one of an arm in a run of ``rows`` rows."""
        ...


@dataclass(frozen=True, slots=True)
class Foretold:
    """The settings that a trainer would choose, as text, and a warning; each may be empty."""

    text: str = ""
    warning: str = ""


@runtime_checkable
class Follows(Protocol):
    """A trainer that distributes its work over the processes of one launch (torchrun, accelerate).

    Rank 0 executes the run. The other ranks receive only the trainer's jobs and see no run directory.
    """

    def lead(self) -> AbstractContextManager[None]:
        """Return the context of the whole run on rank 0: jobs are shared in it, and at its end the other ranks return."""
        ...

    def follow(self, site: Site, loss: TokenLoss | None) -> None:
        """On every other rank: execute jobs until the run of rank 0 ends, with or without an error.

        A rank must not wait for a process that died. ``site`` is the environment of models, ``loss`` the recipe's online loss.
        """
        ...
