"""``xtf.reasoning``: mask tokens that later tokens hardly attend to (XTF, Eq. 5)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt

from nfilter import (
    Context,
    Contract,
    FloatArray,
    LendsModule,
    Needs,
    StageConfig,
    State,
    TokenSample,
)
from nfilter_xtf.attention import importances
from nfilter_xtf.attribute import AttributeMasking, Tally
from nfilter_xtf.presets import Cap, Preset
from nfilter_xtf.rules import LowTail


class ReasoningConfig(StageConfig):
    """Mask tokens that receive little attention under ``model``, a local model: S < Q1 - (Q3 - Q1) within the sample.

    ``cap`` bounds the share of a sample's response tokens that is masked, lowest scores first: ``auto`` is the preset's
    (5%, so no token of a response under 20 tokens; none with ``paper``), ``none`` no bound. ``mask: false`` only
    scores. ``preset: paper`` is the equation as written, ``official`` the published code, whose score is 1 / T.
    """

    model: Annotated[str, Needs(LendsModule)] = "student"
    preset: Preset = "default"
    cap: Cap = "auto"
    mask: bool = True


class Reasoning:
    """Stage that writes ``xtf.reasoning``, [T]: attention received, 1 for uniform attention (see ``importances``).

    No token follows the last one, so it has no score and is kept.
    """

    name: ClassVar[str] = "xtf.reasoning"
    Config: ClassVar[type[StageConfig]] = ReasoningConfig

    def __init__(self, config: ReasoningConfig) -> None:
        self.config = config
        self._masking = AttributeMasking("reasoning", config.preset, config.cap, config.mask)

    @classmethod
    def contract(cls, config: ReasoningConfig) -> Contract:  # noqa: ARG003 (the protocol's signature)
        """Write a score."""
        return Contract(writes=frozenset({cls.name}))

    def fit_tokens(self, stream: Iterable[TokenSample], ctx: Context) -> State:
        """Score all samples, one forward pass each; duplicates are scored once."""
        rule, tally = LowTail(self.config.preset), Tally()
        samples = list(stream)
        unique = {_key(sample): sample for sample in samples}
        results = self._score(list(unique.values()), ctx)
        scores = dict(zip(unique, results, strict=True))
        for sample in samples:
            tally.add(*self._masking.counts(sample, scores[_key(sample)], rule))
        cuts = [rule.cut(scores[key][sample.response]) for key, sample in unique.items()]
        known = [cut for cut in cuts if not np.isnan(cut)]
        report = {
            **tally.report(self._masking, ctx),
            "threshold_median": round(float(np.median(known)), 6) if known else None,
        }
        parts = {key: scores[key][sample.response] for key, sample in unique.items()}
        return State({"report": report}, _pack(parts))

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Context, bit: int
    ) -> list[TokenSample]:
        """Write the scores, and mask the tokens below each sample's own threshold."""
        rule = LowTail(self.config.preset)
        stored = [_stored_scores(sample, state) for sample in chunk]
        missing = [sample for sample, scores in zip(chunk, stored, strict=True) if scores is None]
        computed = iter(self._score(missing, ctx))
        return [
            self._masking.apply(sample, next(computed) if scores is None else scores, rule, bit)
            for sample, scores in zip(chunk, stored, strict=True)
        ]

    def _score(self, samples: Sequence[TokenSample], ctx: Context) -> list[FloatArray]:
        if not samples:
            return []
        size = sum(len(sample.ids) for sample in samples)
        with (
            ctx.progress(size, f"{self.name}: {self.config.model} reads") as bar,
            ctx.model(self.config.model).lend() as lent,
        ):
            return importances(lent.module, samples, self.config.preset, bar.advance)


def _key(sample: TokenSample) -> int:
    """Return a 64-bit hash of a score's inputs: the ids and the response mask."""
    hasher = hashlib.blake2b(np.ascontiguousarray(sample.ids, dtype="<i8").tobytes(), digest_size=8)
    hasher.update(np.packbits(sample.response).tobytes())
    return int.from_bytes(hasher.digest(), "big")


def _pack(parts: Mapping[int, FloatArray]) -> dict[str, npt.NDArray[Any]]:
    """Return sorted keys and, per key, the start of its scores in one flat array."""
    keys = sorted(parts)
    sizes = [len(parts[key]) for key in keys]
    return {
        "keys": np.array(keys, dtype=np.uint64),
        "starts": np.cumsum([0, *sizes])[:-1].astype(np.int64),
        "scores": np.concatenate([np.zeros(0, np.float32), *(parts[key] for key in keys)]),
    }


def _stored_scores(sample: TokenSample, state: State) -> FloatArray | None:
    keys, key = state.arrays.get("keys"), np.uint64(_key(sample))
    if keys is None:
        return None
    index = int(np.searchsorted(keys, key))
    if index == len(keys) or keys[index] != key:
        return None
    start = int(state.arrays["starts"][index])
    scores = np.full(len(sample.ids), np.nan, dtype=np.float32)
    scores[sample.response] = state.arrays["scores"][start : start + int(sample.response.sum())]
    return scores
