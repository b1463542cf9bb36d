"""The protocols of metrics, and their inputs, which include the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol, runtime_checkable

from nfilter.api.types import JSON, BoolArray, Sample, TokenSample

SECTIONS: Final = frozenset({
    "name", "seeds", "samples", "stages", "tokens", "calls_per_sample", "encode", "usd", "arms", "comparisons", "recovered",
    "recovered_vanilla", "gain", "spread", "nothing_left", "warnings", "failed_calls", "response", "in_loss",
})  # fmt: skip
"""Keys of metrics.json that the engine writes; a metric cannot have such a name."""


def _silent(text: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Judged:
    """One sample of the source and its final version, with the truth, which stages cannot see."""

    original: Sample
    final: Sample
    truth: str | None
    label_was_right: bool | None
    label_is_right: bool | None


@dataclass(frozen=True, slots=True)
class MetricInput:
    """The input of a metric over the cleaned data. ``calls`` and ``tokens`` are by stage.

    ``verdicts``, ``views`` and ``proposes`` are the notes that the contracts of the recipe's stages declare.
    ``answer_is_right`` has, by note and sample id, whether the note's ``answer`` is true (None without an answer or a known
    truth). ``samples`` is the number of rows read; ``judged`` is empty if no truth is known. ``warn`` logs a warning, e.g.
    about figures that cannot be computed.
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
    """Figures over the cleaned data. ``compute`` returns the value of metrics.json under the metric's name."""

    name: ClassVar[str]

    def compute(self, data: MetricInput) -> Mapping[str, JSON]: ...


@dataclass(frozen=True, slots=True)
class JudgedTokens:
    """One sample after the token stages, with the known noise of its tokens.

    ``known`` [T] marks the tokens for which it is known whether they are noise: those of a response that no stage replaced.
    ``noise`` has by kind the mask [T] of noise tokens; the other known tokens are signal.
    """

    sample: TokenSample
    known: BoolArray
    noise: Mapping[str, BoolArray]


@dataclass(frozen=True, slots=True)
class TokenMetricInput:
    """The input of a metric over tokens. ``reasons`` are the names of the bits of ``TokenSample.reasons``.

    ``warn`` logs a warning, e.g. about figures that cannot be computed.
    """

    judged: Sequence[JudgedTokens]
    reasons: Sequence[str]
    seed: int
    warn: Callable[[str], None] = _silent


@runtime_checkable
class TokenMetric(Protocol):
    """Figures over the tokens of the cleaned arm whose noise is known.

    ``compute_tokens`` returns the value of metrics.json under ``tokens`` and the metric's name. A class may be a metric of
    both kinds; both are registered with ``nfilter_metrics``.
    """

    name: ClassVar[str]

    def compute_tokens(self, data: TokenMetricInput) -> Mapping[str, JSON]: ...
