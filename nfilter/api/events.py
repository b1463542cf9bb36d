"""The events that a run sends to observing hooks: frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nfilter.api.types import JSON


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run begins; ``directory`` is the run directory."""

    name: str
    directory: Path
    seed: int


@dataclass(frozen=True, slots=True)
class StageFinished:
    """A stage published its artefact, or an earlier one is ``reused``.

    Attributes:
        stage: The number and the name of the stage, as in its folder.
        kept: Samples that remain after the stage; after a token stage, those with a token in the loss.
        dropped: Samples that do not, so that those dropped by earlier stages over samples are among them.
        changed: Samples that the stage changed.
        seconds: The time that it took; 0 for a reused one.
        reused: Whether the artefact is that of an earlier run.
    """

    stage: str
    kept: int
    dropped: int
    changed: int
    seconds: float
    reused: bool


@dataclass(frozen=True, slots=True)
class RunFinished:
    """A run ended without an error; ``metrics`` is the content of metrics.json."""

    name: str
    directory: Path
    metrics: Mapping[str, JSON]
