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
    """A stage published its artefact, or an earlier one is ``reused``."""

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
