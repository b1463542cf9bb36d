"""Conformance checks of stages and losses: the engine's rules and further ones, as assertions for a plugin's tests."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nfilter.api.stages import EMPTY_STATE, AddsPenalty, Context, Contract, Fits, FitsTokens, State
from nfilter.api.types import Sample, TokenSample
from nfilter.engine.invariants import (
    check_samples,
    check_state,
    check_tokens,
    check_written,
    notes_not_written,
    values_of,
)
from nfilter.registry.contracts import contract_of
from nfilter.registry.registration import class_faults
from nfilter.testing.replay import Recording, with_own_randomness

_PARTS = (1, 3)
"""Chunk sizes that a stage is also run with."""


def check_class(kind: str, cls: Any) -> None:
    """Check that a class can be registered as a ``kind``: stage, backend, trainer, source, exporter, metric, loss, tool or executor.

    Raises:
        AssertionError: if it cannot; the message has all faults with their remedies.
    """
    faults = class_faults(kind, cls, "my_plugin")
    assert not faults, "\n".join(faults)


def check_sample_stage(
    stage: type[Any], config: Any, samples: Sequence[Sample], ctx: Context
) -> list[Sample]:
    """Run a sample stage over ``samples`` with the checks of the engine, and further ones.

    The stage runs over all samples at once, and again in chunks with the models' answers of the first run: a decision must not
    depend on the other samples of the chunk. The stage must not change samples in place or use a global random number
    generator.

    Returns:
        The processed samples of the first run.

    Raises:
        AssertionError: if the class lacks a member, or breaks one of these rules.
        ContractError: if the stage breaks an invariant of the engine; the message names it.
    """
    check_class("stage", stage)
    assert hasattr(stage, "process"), (
        f"{stage.name}: it has no process, so it is not a stage over samples"
    )
    before = [_sample_text(sample) for sample in samples]
    recording = Recording(ctx)
    contract = contract_of(stage, config)
    out = with_own_randomness(
        stage.name, lambda: _sample_runs(stage, contract, config, samples, recording)
    )
    for sample, was in zip(samples, before, strict=True):
        assert _sample_text(sample) == was, (
            f"{stage.name}: sample {sample.id!r} was changed in place; return a new one: note(), relabel(), drop(), weigh()"
        )
    check_written(stage.name, contract, notes_not_written(contract, out), len(samples))
    return out


def _sample_runs(
    stage: type[Any], contract: Contract, config: Any, samples: Sequence[Sample], ctx: Recording
) -> list[Sample]:
    """Run over all samples at once, and again in chunks; return the result of the first run."""
    built = stage(config)
    state = EMPTY_STATE
    if isinstance(built, Fits):
        state = _reloaded(check_state(stage.name, "fit", built.fit(list(samples), ctx)))
    out = _sample_chunk(stage, contract, config, samples, samples, state, ctx)
    again = ctx.again()
    for size in _PARTS if len(samples) > 1 else ():
        parts = [samples[start : start + size] for start in range(0, len(samples), size)]
        done = [
            each
            for part in parts
            for each in _sample_chunk(stage, contract, config, part, samples, state, again)
        ]
        _same_decisions(stage.name, size, out, done)
    return out


def _sample_chunk(
    stage: type[Any],
    contract: Contract,
    config: Any,
    chunk: Sequence[Sample],
    every: Sequence[Sample],
    state: State,
    ctx: Any,
) -> list[Sample]:
    built = stage(config)
    returned = values_of(stage.name, "process", Sample, built.process(list(chunk), state, ctx))
    check_samples(stage.name, contract, chunk, returned, {sample.id: True for sample in every})
    return returned


def _same_decisions(stage: str, size: int, out: Sequence[Sample], done: Sequence[Sample]) -> None:
    whole, parts = ({sample.id: sample for sample in samples} for samples in (out, done))
    for name in whole.keys() | parts.keys():
        one, other = whole.get(name), parts.get(name)
        same = (
            one is not None
            and other is not None
            and (one.response, one.dropped is None) == (other.response, other.dropped is None)
            and _near([one.weight, dict(one.notes)], [other.weight, dict(other.notes)])
        )
        assert same, (
            f"{stage}: the decision about sample {name!r} depends on its chunk: {_shown(one)} with all samples, {_shown(other)} in "
            f"chunks of {size}; what needs all samples belongs in fit(self, stream, ctx)"
        )


def _shown(sample: Sample | None) -> str:
    if sample is None:
        return "it is missing"
    outcome = "kept" if sample.dropped is None else "dropped"
    return f"{outcome}, weight {sample.weight:g}, response {sample.response!r:.40}, notes {dict(sample.notes)!r:.160}"


def _near(one: Any, other: Any) -> bool:
    """Whether JSON values are equal, numbers up to the rounding of a different summation order."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_near(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_near, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-5)
    return bool(one == other)


def _reloaded(state: State) -> State:
    """A state as it is read from disk: JSON values, read-only arrays."""
    values = json.loads(json.dumps(dict(state.values)))
    arrays = {name: np.array(array) for name, array in state.arrays.items()}
    for array in arrays.values():
        array.setflags(write=False)
    return State(values, arrays)


def _sample_text(sample: Sample) -> str:
    return repr(
        (sample.messages, dict(sample.notes), dict(sample.meta), sample.weight, sample.dropped)
    )


def check_token_stage(
    stage: type[Any],
    config: Any,
    samples: Sequence[TokenSample],
    ctx: Context,
    *,
    bit: int = 0,
    chunk: int | None = None,
) -> tuple[list[TokenSample], State]:
    """Run a token stage over ``samples`` in chunks of ``chunk`` with the checks of the engine, and further ones.

    The stage runs again in other chunks with the losses of the first run: its result for a sample must not depend on the other
    samples of the chunk. The stage must not change samples in place or use a global random number generator.

    Returns:
        The processed samples, with ``bit`` as the number of the stage's reason bit, and the stage's state.

    Raises:
        AssertionError: if the class lacks a member, or breaks one of these rules.
        ContractError: if the stage breaks an invariant of the engine; the message names it.
    """
    check_class("stage", stage)
    assert hasattr(stage, "process_tokens"), (
        f"{stage.name}: it has no process_tokens, so it is not a stage over tokens"
    )
    before = [_bytes_of(sample) for sample in samples]
    recording = Recording(ctx)
    contract = contract_of(stage, config)
    out, state = with_own_randomness(
        stage.name,
        lambda: _token_runs(
            stage, contract, config, samples, recording, bit, chunk or max(1, len(samples))
        ),
    )
    for sample, was in zip(samples, before, strict=True):
        assert _bytes_of(sample) == was, (
            f"{stage.name}: sample {sample.id!r} was changed in place; return a new one: score(), mask(), weigh()"
        )
    check_written(stage.name, contract, notes_not_written(contract, out), len(out))
    return out, state


def _token_runs(
    stage: type[Any],
    contract: Contract,
    config: Any,
    samples: Sequence[TokenSample],
    ctx: Recording,
    bit: int,
    given: int,
) -> tuple[list[TokenSample], State]:
    """Run in chunks of ``given`` samples, and again in others; return the result of the first run."""
    built = stage(config)
    state = EMPTY_STATE
    if isinstance(built, FitsTokens):
        state = check_state(stage.name, "fit_tokens", built.fit_tokens(list(samples), ctx))
    out = _token_chunks(stage, contract, config, samples, state, ctx, bit, given)
    for size in sorted({*_PARTS, max(1, len(samples))} - {given}):
        done = _token_chunks(stage, contract, config, samples, state, ctx.again(), bit, size)
        _same_tokens(stage.name, size, out, done)
    return out, state


def _token_chunks(
    stage: type[Any],
    contract: Contract,
    config: Any,
    samples: Sequence[TokenSample],
    state: State,
    ctx: Any,
    bit: int,
    size: int,
) -> list[TokenSample]:
    built = stage(config)
    out: list[TokenSample] = []
    for start in range(0, len(samples), size):
        part = list(samples[start : start + size])
        returned = built.process_tokens(list(part), state, ctx, bit)
        done = values_of(stage.name, "process_tokens", TokenSample, returned)
        check_tokens(stage.name, contract, part, done, bit)
        out += done
    return out


def _same_tokens(
    stage: str, size: int, out: Sequence[TokenSample], done: Sequence[TokenSample]
) -> None:
    for one, other in zip(out, done, strict=True):
        arrays = [(one.weights, other.weights), (one.reasons, other.reasons)]
        arrays += [(one.scores[name], other.scores[name]) for name in one.scores]
        same = one.scores.keys() == other.scores.keys() and all(
            np.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True) for a, b in arrays
        )
        assert same, (
            f"{stage}: the result for the tokens of {one.id!r} depends on its chunk (it differs in chunks of {size}); "
            "what needs all samples belongs in fit_tokens(self, stream, ctx)"
        )


def check_token_loss(
    loss: type[Any],
    config: Any,
    logits: Any,
    labels: Any,
    cached: Mapping[str, Any] | None = None,
    *,
    step: int = 0,
    reference_logits: Any = None,
) -> Any:
    """Run an online loss over ``logits`` [n, vocab] and ``labels`` [n] as a trainer does, and return its weights [n].

    ``cached`` has the scores that the contract reads, [n] each. The arrays are of the library that the loss is written for.
    A loss with a penalty needs ``reference_logits`` [n, vocab].

    Raises:
        AssertionError: if a member is missing, statistics or penalties depend on the division of the logits into chunks or
            have another shape, or weights have another shape, are not finite, or are negative although ``mean_over`` is
            ``weighed``.
    """
    check_class("loss", loss)
    scores = dict(cached or {})
    missing = sorted(contract_of(loss, config).reads - set(scores))
    assert not missing, f"{loss.name}: the contract reads {missing}; give them in cached"
    built = loss(config)
    n = len(labels)
    stats = dict(built.stats(logits, labels))
    for name, values in stats.items():
        assert tuple(values.shape) == (n,), (
            f"{loss.name}: the statistic {name!r} has shape {tuple(values.shape)}, not ({n},)"
        )
    half = n // 2
    parts = [built.stats(logits[:half], labels[:half]), built.stats(logits[half:], labels[half:])]
    for name, values in stats.items():
        joined = np.concatenate([np.asarray(part[name], dtype=np.float64) for part in parts])
        assert np.allclose(joined, np.asarray(values, dtype=np.float64), rtol=1e-4, atol=1e-6), (
            f"{loss.name}: the statistic {name!r} depends on the division of the logits into chunks"
        )
    weights = built.weigh(stats, scores, step)
    plain = np.asarray(weights, dtype=np.float64)
    assert plain.shape == (n,), f"{loss.name}: weigh returned shape {plain.shape}, not ({n},)"
    assert np.isfinite(plain).all(), f"{loss.name}: a weight is not finite"
    assert loss.mean_over == "given" or (plain >= 0).all(), (
        f"{loss.name}: a weight is negative, and mean_over: weighed divides by their sum"
    )
    if isinstance(built, AddsPenalty):
        _check_penalty(built, loss.name, logits, labels, reference_logits)
    return weights


def _check_penalty(built: AddsPenalty, name: str, logits: Any, labels: Any, reference: Any) -> None:
    assert reference is not None, f"{name}: it has a penalty; give reference_logits"
    n, half = len(labels), len(labels) // 2
    parts = [
        built.penalty(logits[part], labels[part], reference[part])
        for part in (slice(0, n), slice(0, half), slice(half, n))
    ]
    whole, *halves = [np.asarray(part, dtype=np.float64) for part in parts]
    assert whole.shape == (n,), f"{name}: penalty returned shape {whole.shape}, not ({n},)"
    assert np.isfinite(whole).all(), f"{name}: a penalty is not finite"
    assert np.allclose(np.concatenate(halves), whole, rtol=1e-4, atol=1e-6), (
        f"{name}: the penalty depends on the division of the logits into chunks"
    )


def _bytes_of(sample: TokenSample) -> list[tuple[str, bytes]]:
    arrays = {name: getattr(sample, name) for name in ("ids", "response", "weights", "reasons")}
    arrays |= {f"score {name}": values for name, values in sample.scores.items()}
    return [(name, np.ascontiguousarray(values).tobytes()) for name, values in arrays.items()]
