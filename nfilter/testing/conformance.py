"""Conformance checks: what the engine will demand of a plugin, as assertions that its own tests can call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nfilter.capabilities import CAPABILITIES, Abilities
from nfilter.engine.invariants import check_samples
from nfilter.stages import EMPTY_STATE, Context, Fits, StageConfig
from nfilter.types import Sample


def check_sample_stage(
    stage: type[Any], config: Any, samples: Sequence[Sample], ctx: Context
) -> list[Sample]:
    """Run a sample stage over ``samples`` as the engine would, and refuse what the engine would refuse.

    Returns the processed samples.

    Raises:
        AssertionError: when the class lacks a member.
        ContractError: when an invariant is broken; the message names it.
    """
    for member in ("name", "Config", "contract", "process"):
        assert hasattr(stage, member), f"{stage.__name__} has no {member}"
    assert issubclass(stage.Config, StageConfig), f"{stage.__name__}.Config is not a StageConfig"
    assert "." in stage.name, f"{stage.__name__}.name is not of the form plugin.stage"
    contract = stage.contract(config)
    built = stage(config)
    state = built.fit(list(samples), ctx) if isinstance(built, Fits) else EMPTY_STATE
    out = list(built.process(list(samples), state, ctx))
    check_samples(stage.name, contract, samples, out)
    return out


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
