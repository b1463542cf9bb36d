"""How the arms of a run were trained, in one line: the same settings, and the steps that each arm took with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from nfilter.metrics import figures
from nfilter.report import text

_SETTINGS: Final = ("batch_size", "epochs", "lr")


def closing(metrics: Mapping[str, Any]) -> str | None:
    """Optimiser steps by arm, then the settings that all arms have; None where no arm was trained."""
    steps = {
        arm: found.mean
        for arm in _arms(metrics)
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
    said = f"optimiser steps: {', '.join(by_arm)}"
    all_have = [
        f"{name} {text.value(value)}" for name, value in shared.items() if value is not None
    ]
    return f"{said}; {', '.join(all_have)}" if all_have else said


def _arms(metrics: Mapping[str, Any]) -> list[str]:
    trained = metrics.get("training")
    if not isinstance(trained, Mapping):
        return []
    return [arm for arm in figures.ARMS if arm in trained]


def _shared(metrics: Mapping[str, Any], arms: Mapping[str, float], name: str) -> float | None:
    """The value of a setting where every arm has it and it is one."""
    found = {
        figure.mean if figure is not None else None
        for arm in arms
        for figure in [figures.figure(metrics, "training", arm, name)]
    }
    return found.pop() if len(found) == 1 else None
