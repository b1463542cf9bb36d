"""The training of a run's arms in one line: optimiser steps per arm and shared settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from nfilter.metrics import figures
from nfilter.recipe.sections import ARMS
from nfilter.report import text

_SETTINGS: Final = ("batch_size", "epochs", "lr")


def closing(metrics: Mapping[str, Any]) -> str | None:
    """Return the optimiser steps by arm and the settings that all arms share; None if no arm was trained."""
    steps = {
        arm: found.mean
        for arm in _trained_arms(metrics)
        if (found := figures.figure(metrics, "training", arm, "steps")) is not None
    }
    if not steps:
        return None
    shared = {name: _shared(metrics, steps, name) for name in _SETTINGS}
    by_arm = []
    for arm, count in steps.items():
        own = ", ".join(
            f"{name} {text.value(found.mean)}"
            for name in _SETTINGS
            if shared[name] is None
            and (found := figures.figure(metrics, "training", arm, name)) is not None
        )
        by_arm.append(f"{arm} {round(count):,}{f' ({own})' if own else ''}")
    line = f"optimiser steps: {', '.join(by_arm)}"
    all_have = [
        f"{name} {text.value(value)}" for name, value in shared.items() if value is not None
    ]
    return f"{line}; {', '.join(all_have)}" if all_have else line


def _trained_arms(metrics: Mapping[str, Any]) -> list[str]:
    trained = metrics.get("training")
    if not isinstance(trained, Mapping):
        return []
    return [arm for arm in ARMS if arm in trained]


def _shared(metrics: Mapping[str, Any], arms: Mapping[str, float], name: str) -> float | None:
    """The value of a setting if all arms have the same; else None."""
    values = {
        figure.mean if figure is not None else None
        for arm in arms
        for figure in [figures.figure(metrics, "training", arm, name)]
    }
    return values.pop() if len(values) == 1 else None
