"""What a run announces to the hooks that observe it: frozen, and never fatal to the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nfilter.api.types import JSON


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run begins; ``directory`` is where it writes."""

    name: str
    directory: Path
    seed: int


@dataclass(frozen=True, slots=True)
class StageFinished:
    """A stage published its artefact; ``reused`` says that an earlier run had made it."""

    stage: str
    kept: int
    dropped: int
    changed: int
    seconds: float
    reused: bool


@dataclass(frozen=True, slots=True)
class RunFinished:
    """A run ended well; ``metrics`` is what metrics.json holds."""

    name: str
    directory: Path
    metrics: Mapping[str, JSON]
