"""What metrics are: the protocols, and what they may see of a run beside the truth that no stage saw."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol, runtime_checkable

from nfilter.api.types import JSON, BoolArray, Sample, TokenSample

SECTIONS: Final = frozenset({
    "name", "seeds", "samples", "stages", "tokens", "calls_per_sample", "encode", "usd", "arms", "comparisons", "recovered",
    "recovered_vanilla", "gain", "spread", "nothing_left", "warnings", "failed_calls", "response", "in_loss",
})  # fmt: skip
"""Keys of metrics.json that the engine writes; no metric may be called so."""


def _silent(text: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Judged:
    """One sample of the source at the end of the sample stages, beside the truth that no stage saw."""

    original: Sample
    final: Sample
    truth: str | None
    label_was_right: bool | None
    label_is_right: bool | None


@dataclass(frozen=True, slots=True)
class MetricInput:
    """What a metric over the cleaned data may see. ``calls`` and ``tokens`` are by stage.

    ``verdicts``, ``views`` and ``proposes`` name the notes that the recipe's stages declared in their contracts.
    ``answer_is_right`` says, by note and sample id, whether the note's ``answer`` is the true one (None: no answer
    there, or no truth known). ``samples`` counts the rows read; ``judged`` is empty where no truth is known. ``warn``
    takes a sentence on figures that cannot be computed.
    """

    judged: Sequence[Judged]
    samples: int
    verdicts: Sequence[str]
    views: Sequence[str]
    proposes: Sequence[str]
    answer_is_right: Mapping[str, Mapping[str, bool | None]]
    calls: Mapping[str, int]
    tokens: Mapping[str, int]
    seed: int
    warn: Callable[[str], None] = _silent


@runtime_checkable
class Metric(Protocol):
    """Figures over the cleaned data. ``compute`` returns what goes into metrics.json under its name."""

    name: ClassVar[str]

    def compute(self, data: MetricInput) -> Mapping[str, JSON]: ...


@dataclass(frozen=True, slots=True)
class JudgedTokens:
    """One sample at the end of the token stages, beside what is known of its tokens.

    ``known`` [T] says of which tokens it is known whether they are noise: those of a response that no stage replaced.
    ``noise`` has by kind which of them are [T]; the others are signal.
    """

    sample: TokenSample
    known: BoolArray
    noise: Mapping[str, BoolArray]


@dataclass(frozen=True, slots=True)
class TokenMetricInput:
    """What a metric over tokens may see. ``reasons`` name the bits of ``TokenSample.reasons``; ``seed`` is the run's.

    ``warn`` takes a sentence on figures that cannot be computed.
    """

    judged: Sequence[JudgedTokens]
    reasons: Sequence[str]
    seed: int
    warn: Callable[[str], None] = _silent


@runtime_checkable
class TokenMetric(Protocol):
    """Figures over the tokens of the cleaned arm, where it is known which are noise.

    ``compute_tokens`` returns what goes into metrics.json under ``tokens`` and its name. A class may be a metric of
    both kinds; both are registered by ``nfilter_metrics``.
    """

    name: ClassVar[str]

    def compute_tokens(self, data: TokenMetricInput) -> Mapping[str, JSON]: ...
