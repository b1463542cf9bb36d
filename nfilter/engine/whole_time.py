"""Estimate the time of a whole run from what a pilot measured (``timing.py``) and stored in its ``pace.json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from nfilter.api.training import CountsSteps
from nfilter.engine.arms import read_test
from nfilter.engine.pipeline import numbered, stage_models
from nfilter.engine.plan_time import model_digest
from nfilter.models.pace import PACES, speeds
from nfilter.recipe.model import Recipe
from nfilter.recipe.uses import Use
from nfilter.store.files import digest, write_sealed

STEPS: Final = 6
"""Optimiser steps of which a pilot measures the time."""
_WHOLE: Final = "whole"


@dataclass(frozen=True, slots=True)
class Cost:
    """The seconds of a step: ``once``, such as loading a model, and ``each`` per row, optimiser step or test question."""

    once: float
    each: float

    def at(self, number: float) -> float:
        """Return the seconds for ``number`` rows, optimiser steps or test questions."""
        return self.once + self.each * number


@dataclass(frozen=True, slots=True)
class Measured:
    """What a pilot measured. ``kept`` is the share of its rows that remained.

    ``stages`` has the cost of each stage by its label, with the digest of its settings and models; ``other`` is the cost of
    reading, encoding and writing. ``training`` and ``evaluation``, each with a digest, are None if they were not measured.
    """

    kept: float
    stages: Mapping[str, tuple[str, Cost]]
    other: Cost
    training: tuple[str, Cost] | None = None
    evaluation: tuple[str, Cost] | None = None


@dataclass(frozen=True, slots=True)
class WholeTime:
    """The expected seconds of a whole run.

    Attributes:
        stages: Seconds by the label of a stage.
        other: Seconds for reading, encoding and writing the rows.
        training: Seconds of training all arms; None if it was not measured, 0 if no arm is trained.
        steps: The optimiser steps of all arms; None if the trainer does not count them.
        evaluation: Seconds of testing all arms; None if it was not measured, 0 if no arm is tested.
        questions: The test questions of all arms.
        once: The part of all these seconds that does not depend on the number of rows, such as loading models.
    """

    stages: Mapping[str, float]
    other: float
    training: float | None
    steps: int | None
    evaluation: float | None
    questions: int
    once: float

    @property
    def known(self) -> float:
        """The sum of the seconds that were measured."""
        return (
            sum(self.stages.values())
            + self.other
            + (self.training or 0.0)
            + (self.evaluation or 0.0)
        )


def stage_digests(recipe: Recipe) -> dict[str, str]:
    """Return by the label of each stage a digest of its settings and models."""
    uses = [*numbered(recipe.samples, 1), *numbered(recipe.tokens, len(recipe.samples) + 2)]
    return {
        each.label: digest(
            each.use.dump(),
            [model_digest(recipe, name) for name in stage_models(recipe, each.use)],
        )
        for each in uses
    }


def steps_of(recipe: Recipe, rows: int, kept: float) -> int | None:
    """Return the optimiser steps of all arms; None if the trainer does not count them.

    ``kept`` is the share of the rows that remain for the arm ``cleaned``. An arm on the truth is assumed to have all rows.
    """
    trained = [arm for arm in recipe.arms if arm != "vanilla"]
    if recipe.adopt is not None:
        trained = [arm for arm in trained if arm != "cleaned"]
    use = recipe.train
    if use is None or not trained:
        return 0
    trainer = use.item.cls
    if not issubclass(trainer, CountsSteps):
        return None
    samples = {"cleaned": max(1, round(rows * kept))}
    return sum(int(trainer.steps(use.config, samples.get(arm, rows), rows)) for arm in trained)


def first_steps(recipe: Recipe, rows: int) -> Use | None:
    """Return the recipe's trainer with settings for ``STEPS`` steps of a run of ``rows`` rows; None if it cannot count them."""
    use = recipe.train
    if use is None or not issubclass(use.item.cls, CountsSteps):
        return None
    return replace(use, config=use.item.cls.first_steps(use.config, rows, STEPS))


def training_digest(recipe: Recipe, rows: int) -> str:
    """Return a digest of all that determines the time of an optimiser step."""
    use = first_steps(recipe, rows)
    model = "" if use is None else model_digest(recipe, use.config.model)
    return digest(None if use is None else use.dump(), model, recipe.encode.max_length)


def evaluation_digest(recipe: Recipe) -> str:
    """Return a digest of all that determines the time of a test question."""
    name = recipe.train.config.model if recipe.train is not None else recipe.encode.model
    asked = recipe.evaluate
    shown = None if asked is None else [asked.max_tokens, asked.prompt]
    return digest(shown, model_digest(recipe, name))


def keep(directory: Path, found: Measured) -> None:
    """Store what a pilot measured in the ``pace.json`` of its run directory."""
    file = directory / PACES
    write_sealed(file, {**speeds(file), _WHOLE: asdict(found)})


def measured_in(directory: Path) -> Measured | None:
    """Return what a pilot measured in ``directory``; None if there is nothing, or not in the form of this version."""
    found = speeds(directory / PACES).get(_WHOLE)
    try:
        return None if found is None else _measured(found)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def whole_time(recipe: Recipe, found: Measured | None, rows: int) -> WholeTime | None:
    """Return the expected time of ``rows`` rows; None if nothing was measured with these stages and models."""
    digests = stage_digests(recipe)
    if found is None or {label: of for label, (of, _) in found.stages.items()} != digests:
        return None
    costs = [*(cost for _, cost in found.stages.values()), found.other]
    steps = steps_of(recipe, rows, found.kept)
    training = _matching(found.training, training_digest(recipe, rows)) if steps else None
    questions = len(read_test(recipe)) * len(recipe.arms)
    asked = _matching(found.evaluation, evaluation_digest(recipe)) if questions else None
    costs += [cost for cost in (training, asked) if cost is not None]
    return WholeTime(
        {label: cost.at(rows) for label, (_, cost) in found.stages.items()},
        found.other.at(rows),
        training.at(steps or 0) if training is not None else (None if steps != 0 else 0.0),
        steps,
        asked.at(questions) if asked is not None else (None if questions else 0.0),
        questions,
        sum(cost.once for cost in costs),
    )


def _matching(found: tuple[str, Cost] | None, of: str) -> Cost | None:
    return found[1] if found is not None and found[0] == of else None


def _measured(value: Mapping[str, Any]) -> Measured:
    def pair(part: Any) -> tuple[str, Cost] | None:
        return None if part is None else (str(part[0]), _cost(part[1]))

    def pairs() -> Iterator[tuple[str, tuple[str, Cost]]]:
        for label, part in value["stages"].items():
            yield label, (str(part[0]), _cost(part[1]))

    return Measured(
        float(value["kept"]),
        dict(pairs()),
        _cost(value["other"]),
        pair(value["training"]),
        pair(value["evaluation"]),
    )


def _cost(value: Mapping[str, Any]) -> Cost:
    return Cost(float(value["once"]), float(value["each"]))
