"""The figures of a run as the overview shows them; none of them needs the index."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Final

from nfilter import NfilterError, RunReader

_POINTS: Final = 400
"""Points of a training curve; longer ones are means of equal parts."""
_ARMS: Final = ("vanilla", "raw", "cleaned", "truth")
_SCHEDULES: Final[Mapping[str, Callable[[float], float]]] = {
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
    "constant": lambda _: 1.0,
}
"""The share of the peak learning rate, by the share of the steps behind the warm-up that are done."""


def headline(reader: RunReader) -> dict[str, Any]:
    """Return what the list of runs says of one."""
    try:
        metrics, manifest = reader.metrics(), reader.manifest()
        ended = reader.ended()
    except NfilterError as error:
        return {"name": reader.path.name, "status": "damaged", "error": str(error), "rows": 0}
    runs = manifest.get("runs") or []
    return {
        "name": metrics.get("name") or reader.path.name,
        "status": "done" if ended else "not finished",
        "rows": reader.size(),
        "samples": metrics.get("samples") or {},
        "seeds": metrics.get("seeds") or [],
        "began": runs[-1].get("began") if runs else None,
        "seconds": manifest.get("seconds"),
        "usd": metrics.get("usd"),
        "arms": _arms(metrics),
    }


def overview(reader: RunReader) -> dict[str, Any]:
    """Return every figure of the overview but the distributions of scores, which the index has."""
    metrics, manifest = reader.metrics(), reader.manifest()
    calls = manifest.get("calls") or {}
    by_stage = {row["stage"]: row for row in manifest.get("stages") or []}
    stages = []
    for stage in reader.stages():
        made = by_stage.get(stage.label, {}).get("made_in_seconds")
        stages.append({
            **asdict(stage),
            "seconds": made if stage.seconds is None else stage.seconds,
            "calls": (calls.get(stage.label) or {}).get("calls", 0),
            "prompt_tokens": (calls.get(stage.label) or {}).get("prompt_tokens", 0),
            "completion_tokens": (calls.get(stage.label) or {}).get("completion_tokens", 0),
        })  # fmt: skip
    return {
        **headline(reader),
        "path": str(reader.path),
        "stages": stages,
        "rest_seconds": _rest(manifest),
        "token_stages": [_token_stage(done) for done in reader.token_stages()],
        "tokens": metrics.get("tokens"),
        "detection": metrics.get("detection"),
        "relabel": metrics.get("relabel"),
        "classes": _classes(metrics),
        "noise": _noise(metrics),
        "comparisons": metrics.get("comparisons") or {},
        "recovered": metrics.get("recovered"),
        "gain": metrics.get("gain"),
        "calls_per_sample": metrics.get("calls_per_sample"),
        "failed_calls": metrics.get("failed_calls") or {},
        "warnings": metrics.get("warnings") or [],
        "trainings": {
            arm: _training(record, (metrics.get("training") or {}).get(arm) or {})
            for arm, record in reader.trainings().items()
        },
        "versions": manifest.get("versions") or {},
    }


def _rest(manifest: Mapping[str, Any]) -> float | None:
    """The seconds of a run that were not in a stage: training, tests, reading. None where stages of an earlier run were reused."""
    stages = manifest.get("stages") or []
    if not stages or any(stage.get("reused") for stage in stages):
        return None
    return float(manifest["seconds"]) - sum(float(stage["seconds"]) for stage in stages)


def _arms(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = metrics.get("arms") or {}
    names = [name for name in _ARMS if name in found] + [
        name for name in found if name not in _ARMS
    ]
    kept = ("mean", "low", "high", "rows", "sd", "n", "unanswered")
    return [{"arm": name, **{key: found[name].get(key) for key in kept}} for name in names]


def _classes(metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """Right labels before and after by true answer or its form; None where the truth is not known."""
    found = metrics.get("classes")
    groups = found.get("groups") if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping) or not isinstance(groups, Mapping) or not groups:
        return None
    # A list: a class may have the name of something that objects of JavaScript have anyway.
    return {
        "by": found.get("by"),
        "groups": [{"name": name, **figures} for name, figures in groups.items()],
    }


def _noise(metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """The last estimate of the noise rate that a stage reported."""
    stages = metrics.get("stages") or {}
    for report in reversed(list(stages.values())):
        found = report.get("estimated_noise_rate") if isinstance(report, Mapping) else None
        if isinstance(found, Mapping):
            return dict(found)
        if isinstance(found, int | float):
            return {"estimate": found}
    return None


def _token_stage(done: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: done[key]
        for key in ("label", "kept", "dropped", "changed", "masked", "seconds")
        if key in done
    }


def _training(record: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The curves of one arm's training: loss, and learning rate where it is on record or follows from the settings."""
    losses = [float(loss) for loss in record.get("losses") or [] if isinstance(loss, int | float)]
    config = record.get("config") or {}
    # A setting that the trainer chose itself is "auto" in the record.
    config = {
        **config,
        **{key: chosen[key] for key in ("lr", "epochs", "batch_size") if key in chosen},
    }
    rates = _rates(config, config.get("lr"), len(losses), record.get("steps_planned"))
    return {
        "steps": len(losses),
        "loss": _thinned(losses),
        "lr": _thinned(rates),
        "seconds": record.get("seconds"),
        "stopped": record.get("stopped"),
        "trainer": record.get("trainer"),
        "config": {key: config.get(key) for key in ("lr", "epochs", "batch_size", "rank", "schedule", "warmup")},
    }  # fmt: skip


def _rates(config: Mapping[str, Any], peak: Any, steps: int, planned: Any) -> list[float]:
    """The learning rate of each step, from the peak, the schedule and the share of warm-up steps."""
    total = planned if isinstance(planned, int) and planned > 0 else steps
    falling = _SCHEDULES.get(str(config.get("schedule")))
    if not isinstance(peak, int | float) or falling is None:
        return []
    rising = math.ceil(float(config.get("warmup") or 0) * total)
    out = []
    for step in range(steps):
        if step < rising:
            share = (step + 1) / (rising + 1)
        else:
            share = falling((step - rising) / max(1, total - rising))
        out.append(float(peak) * share)
    return out


def _thinned(values: list[float]) -> list[list[float]]:
    """At most ``_POINTS`` pairs of a step and the mean value around it."""
    if len(values) <= _POINTS:
        return [[step + 1, value] for step, value in enumerate(values)]
    out = []
    for part in range(_POINTS):
        start, end = part * len(values) // _POINTS, (part + 1) * len(values) // _POINTS
        inside = values[start:end]
        out.append([(start + end + 1) / 2, sum(inside) / len(inside)])
    return out
