"""Measure the time of a whole run on few rows: what takes time once, what takes time per row, per optimiser step, per question.

The stages run on half of the pilot's rows first, twice. The first time includes what is done once: loading models, imports,
the first call. The second time repeats no call. All rows of the pilot follow, with the answers of that half: the difference to
the second time is the time of the rows that were added. Half, because on fewer rows a stage may do other work, such as no
bootstrap. A training of a few optimiser steps and a test of a few questions follow. Only the run on all rows is kept.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Final

from nfilter.api.errors import BudgetError, NfilterError
from nfilter.engine.ingest import Subset
from nfilter.engine.run import RunResult, run
from nfilter.engine.whole_time import (
    STEPS,
    Cost,
    Measured,
    evaluation_digest,
    first_steps,
    measured_in,
    stage_digests,
    training_digest,
)
from nfilter.models.pool import ModelPool
from nfilter.progress import QuietReporter
from nfilter.recipe.model import Recipe
from nfilter.registry.loading import Plugins
from nfilter.report import reading
from nfilter.store.files import remove
from nfilter.store.journal import paid_in

_FEWEST: Final = 16
"""The fewest rows of a pilot whose time is split."""
_QUESTIONS: Final = 32
_TRAINED: Final = 64
"""The most rows of the training that is timed."""


@dataclass(frozen=True, slots=True)
class Part:
    """The manifests of the two runs on ``rows`` rows, with the dollars that they cost. ``journal`` lends their answers."""

    rows: int
    first: Mapping[str, Any]
    second: Mapping[str, Any]
    usd: float
    journal: Path


@contextmanager
def timing_folder(out: Path) -> Iterator[Path]:
    """Return a folder in the pilot's directory for the runs that are not kept, removed at the end."""
    folder = out / "timing"
    remove(folder)
    try:
        yield folder
    finally:
        remove(folder)


def part_of(
    recipe: Recipe,
    plugins: Plugins,
    folder: Path,
    pool: ModelPool,
    drawn: Sequence[int],
    lenders: Sequence[Path],
) -> Part | None:
    """Run the stages on half of the ``drawn`` rows, twice; None with few rows, or if the stages need more rows.

    Raises:
        BudgetError: if the limit is reached.
    """
    if len(drawn) < _FEWEST or not (recipe.samples or recipe.tokens):
        return None
    rows = len(drawn) // 2
    limit = Subset(tuple(sorted(drawn[:rows])))
    try:
        first = _unseen(recipe, plugins, folder / "first", pool, limit, lenders)
        journal = folder / "first" / "journal.db"
        second = _unseen(recipe, plugins, folder / "second", pool, limit, [journal])
    except BudgetError:
        raise
    except NfilterError:
        # What is wrong with the recipe shows in the run on all rows.
        return None
    return Part(
        rows,
        reading.manifest(first.directory),
        reading.manifest(second.directory),
        paid_in(journal),
        journal,
    )


def measured(
    recipe: Recipe, out: Path, manifest: Mapping[str, Any], part: Part | None, rows: int, kept: int
) -> Measured | None:
    """Return the costs of the stages of a pilot on ``rows`` rows; None without a ``part``, or if results were reused.

    What an earlier pilot measured counts for stages that were reused, and so do its training and its test.
    """
    digests, before = stage_digests(recipe), measured_in(out)
    known = before.stages if before is not None else {}
    done = {each["stage"]: each for each in (*manifest["stages"], *manifest["token_stages"])}
    if done.keys() != digests.keys():
        return None
    stages: dict[str, tuple[str, Cost]] = {}
    for label, of in digests.items():
        if done[label]["reused"]:
            if label not in known or known[label][0] != of:
                return None
            stages[label] = known[label]
        elif part is None:
            return None
        else:
            seconds = float(done[label]["made_in_seconds"])
            first, second = (_stage(each, label) for each in (part.first, part.second))
            stages[label] = (of, _cost(first, second, seconds, part.rows, rows))
    if part is None:
        other = before.other if before is not None else Cost(_rest(manifest), 0.0)
    else:
        first, second, all_rows = (_rest(each) for each in (part.first, part.second, manifest))
        other = _cost(first, second, all_rows, part.rows, rows)
    return Measured(kept / rows, stages, other)


def timed_arm(
    recipe: Recipe,
    plugins: Plugins,
    folder: Path,
    pool: ModelPool,
    total: int,
) -> tuple[tuple[str, Cost] | None, tuple[str, Cost] | None]:
    """Train a few optimiser steps on random rows and test a few questions; return the costs of both, with their digests.

    A step has the batch size of a run of ``total`` rows. A part that the recipe lacks, or that cannot be timed, is None.

    Raises:
        NfilterError: if the model cannot be trained or tested.
    """
    use = first_steps(recipe, total)
    if not {*recipe.arms} - {"vanilla"}:
        use = None
    arm = "raw" if use is not None else "vanilla"
    if not recipe.arms or (use is None and recipe.evaluate is None):
        return None, None
    asked = recipe.evaluate
    if asked is not None:
        limit = min(_QUESTIONS, asked.limit or _QUESTIONS)
        asked = asked.model_copy(update={"limit": limit})
    places = random.Random(recipe.seed).sample(range(total), min(total, _TRAINED))
    short = recipe.model_copy(
        update={"samples": (), "tokens": (), "arms": (arm,), "evaluate": asked}
        | ({} if use is None else {"train": use})
    )
    done = _unseen(short, plugins, folder / "arm", pool, Subset(tuple(sorted(places))), ())
    speeds = reading.manifest(done.directory)["arms"].get(arm) or {}
    training, evaluation = None, None
    if "seconds_per_step" in speeds:
        figures, each = done.metrics["training"][arm], float(speeds["seconds_per_step"])
        once = max(0.0, float(figures["seconds"]) - each * int(figures["steps"]))
        training = training_digest(recipe, total), Cost(once, each)
    if "evaluation_seconds" in speeds:
        number = sum(1 for _ in reading.rows(done.directory, f"evaluation/{arm}.jsonl"))
        each = float(speeds["evaluation_seconds"]) / number
        evaluation = evaluation_digest(recipe), Cost(0.0, each)
    return training, evaluation


def what_is_timed(recipe: Recipe) -> str:
    """Return a sentence about the runs that are not kept."""
    arm = f", then {STEPS} optimiser steps and {_QUESTIONS} test questions" if recipe.arms else ""
    return (
        f"pilot: measuring time: the stages on half of the rows first{arm}; these runs are not kept"
    )


def _unseen(
    recipe: Recipe,
    plugins: Plugins,
    out: Path,
    pool: ModelPool,
    limit: Subset,
    lenders: Sequence[Path],
) -> RunResult:
    """Run without messages: what they say is of a part of the rows."""
    silent = QuietReporter(StringIO())
    return run(recipe, plugins, out, limit=limit, reporter=silent, pool=pool, lenders=lenders)


def _cost(first: float, second: float, seconds: float, part: int, rows: int) -> Cost:
    """Return the cost of a stage whose time was ``first`` and ``second`` on ``part`` rows, and ``seconds`` on all ``rows``."""
    each = max(0.0, seconds - second) / (rows - part)
    return Cost(max(0.0, first - each * part), each)


def _stage(manifest: Mapping[str, Any], label: str) -> float:
    """The seconds of a stage; 0 if it did not run, such as a token stage without samples."""
    stages = (*manifest["stages"], *manifest["token_stages"])
    return sum(float(each["made_in_seconds"]) for each in stages if each["stage"] == label)


def _rest(manifest: Mapping[str, Any]) -> float:
    """The seconds of a run outside its stages."""
    stages = (*manifest["stages"], *manifest["token_stages"])
    own = sum(float(each["made_in_seconds"]) for each in stages if not each["reused"])
    return max(0.0, float(manifest["seconds"]) - own)
