"""Conformance checks: what the engine will demand of a plugin, as assertions that its own tests can call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nfilter.capabilities import CAPABILITIES, Abilities
from nfilter.engine.invariants import check_samples, check_tokens, values_of
from nfilter.stages import EMPTY_STATE, Context, Fits, FitsTokens, StageConfig, State
from nfilter.types import Sample, TokenSample


def check_sample_stage(
    stage: type[Any], config: Any, samples: Sequence[Sample], ctx: Context
) -> list[Sample]:
    """Run a sample stage over ``samples`` as the engine would, and refuse what the engine would refuse.

    Returns the processed samples.

    Raises:
        AssertionError: when the class lacks a member.
        ContractError: when an invariant is broken; the message names it.
    """
    _check_members(stage, "process")
    contract = stage.contract(config)
    built = stage(config)
    state = built.fit(list(samples), ctx) if isinstance(built, Fits) else EMPTY_STATE
    out = values_of(stage.name, "process", Sample, built.process(list(samples), state, ctx))
    check_samples(stage.name, contract, samples, out)
    return out


def check_token_stage(
    stage: type[Any],
    config: Any,
    samples: Sequence[TokenSample],
    ctx: Context,
    *,
    bit: int = 0,
    chunk: int | None = None,
) -> tuple[list[TokenSample], State]:
    """Run a token stage over ``samples`` as the engine would, ``chunk`` at a time, and refuse what the engine would.

    Samples and settings are not to be changed in place: what was given is compared with a copy. Returns the processed
    samples, in which ``bit`` is the number of the stage's reason, and what the stage learned.

    Raises:
        AssertionError: when the class lacks a member, or something was changed in place.
        ContractError: when an invariant is broken; the message names it.
    """
    _check_members(stage, "process_tokens")
    contract = stage.contract(config)
    before = [_bytes_of(sample) for sample in samples]
    built = stage(config)
    state = built.fit_tokens(list(samples), ctx) if isinstance(built, FitsTokens) else EMPTY_STATE
    out: list[TokenSample] = []
    step = chunk or max(1, len(samples))
    for start in range(0, len(samples), step):
        part = list(samples[start : start + step])
        returned = built.process_tokens(list(part), state, ctx, bit)
        done = values_of(stage.name, "process_tokens", TokenSample, returned)
        check_tokens(stage.name, contract, part, done, bit)
        out += done
    for sample, was in zip(samples, before, strict=True):
        assert _bytes_of(sample) == was, (
            f"{stage.name}: sample {sample.id!r} was changed in place; return a new one: score(), mask(), weigh()"
        )
    return out, state


def check_token_loss(
    loss: type[Any],
    config: Any,
    logits: Any,
    labels: Any,
    cached: Mapping[str, Any] | None = None,
    *,
    step: int = 0,
) -> Any:
    """Run an online loss over ``logits`` [n, vocab] and ``labels`` [n] as a trainer would, and return its weights.

    ``cached`` has the scores that the contract reads, [n] each. Arrays are of the library that the loss is written for.

    Raises:
        AssertionError: when a member is missing, statistics depend on how the logits are cut into chunks, or weights
            are of another shape, not finite, or negative where ``mean_over`` is ``weighed``.
    """
    for member in ("name", "Config", "mean_over", "contract", "stats", "weigh"):
        assert hasattr(loss, member), f"{loss.__name__} has no {member}"
    assert issubclass(loss.Config, StageConfig), f"{loss.__name__}.Config is not a StageConfig"
    assert loss.mean_over in {"given", "weighed"}, (
        f"{loss.name}: mean_over is {loss.mean_over!r}; it is 'given' or 'weighed'"
    )
    scores = dict(cached or {})
    missing = sorted(loss.contract(config).reads - set(scores))
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
            f"{loss.name}: the statistic {name!r} depends on how the logits are cut into chunks"
        )
    weights = built.weigh(stats, scores, step)
    plain = np.asarray(weights, dtype=np.float64)
    assert plain.shape == (n,), f"{loss.name}: weigh gave shape {plain.shape}, not ({n},)"
    assert np.isfinite(plain).all(), f"{loss.name}: a weight is not finite"
    assert loss.mean_over == "given" or (plain >= 0).all(), (
        f"{loss.name}: a weight is negative, and mean_over: weighed divides by their sum"
    )
    return weights


def _check_members(stage: type[Any], method: str) -> None:
    for member in ("name", "Config", "contract", method):
        assert hasattr(stage, member), f"{stage.__name__} has no {member}"
    assert issubclass(stage.Config, StageConfig), f"{stage.__name__}.Config is not a StageConfig"
    assert "." in stage.name, f"{stage.__name__}.name is not of the form plugin.stage"


def _bytes_of(sample: TokenSample) -> list[tuple[str, bytes]]:
    arrays = {name: getattr(sample, name) for name in ("ids", "response", "weights", "reasons")}
    arrays |= {f"score {name}": values for name, values in sample.scores.items()}
    return [(name, np.ascontiguousarray(values).tobytes()) for name, values in arrays.items()]


def check_backend(backend: type[Any], config: Any) -> Abilities:
    """Check that a backend class has the members of the capabilities that it says it has."""
    for member in ("name", "Config", "abilities", "problems", "fingerprint", "close"):
        assert hasattr(backend, member), f"{backend.__name__} has no {member}"
    abilities: Abilities = backend.abilities(config)
    for capability in abilities.capabilities:
        assert capability in CAPABILITIES, f"{capability!r} is not a capability that nfilter knows"
        for member in getattr(capability, "__protocol_attrs__", _members(capability)):
            assert hasattr(backend, member), f"{backend.__name__} lacks {member}, which it promises"
    return abilities


def _members(capability: type) -> list[str]:
    return [name for name in vars(capability) if not name.startswith("_")]
