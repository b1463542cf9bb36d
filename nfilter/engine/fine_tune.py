"""How a finished run trains, read from its own record: what exporters make configurations for other trainers of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nfilter.api.data import FineTune
from nfilter.report import reading


def fine_tune_of(run_dir: Path, models: Mapping[str, Path]) -> FineTune | None:
    """Read how the run in ``run_dir`` trains; None where its recipe does not. ``models`` are the shipped models by name.

    What the recipe leaves to the trainer (``auto``) is replaced by what the arm ``cleaned``, or else another one, was trained with.

    Raises:
        DamageError: when the record of the run is not what was written.
    """
    lock = reading.locked_recipe(run_dir)
    train = lock.get("train")
    train = train.get("with", train) if isinstance(train, Mapping) else None
    if train is None or "model" not in train:
        return None
    name = train["model"]
    entry = lock["models"].get(name)
    entry = lock["models"].get(entry) if isinstance(entry, str) else entry
    model = str(entry.get("model", name)) if isinstance(entry, Mapping) else str(name)
    base_dir = Path(str(lock["lock"]["base_dir"]))
    local = models.get(model, base_dir / model)
    settings = {key: value for key, value in train.items() if key not in ("use", "model")}
    return FineTune(
        str(local.resolve()) if local.exists() else model,
        {**settings, **_chosen(run_dir, settings)},
        lock["encode"].get("max_length"),
        int(lock["seed"]),
    )


def _chosen(run_dir: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a training of the run reports."""
    trained = reading.metrics_of(run_dir).get("training") or {}
    figures: Mapping[str, Any] = trained.get("cleaned") or next(iter(trained.values()), {})
    return {key: figures[key] for key in settings if key in figures}
