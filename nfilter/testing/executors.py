"""A conformance check of executors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nfilter.api.executors import Job, RankEnd
from nfilter.engine.executors import run_rank
from nfilter.engine.rows import CLEANED, DROPPED
from nfilter.recipe.model import Recipe
from nfilter.testing.conformance import check_class


def check_executor(executor: type[Any], config: Any, recipe: Recipe, out: Path) -> None:
    """Run a recipe in this process and by an executor, into folders of ``out``, and compare the rows.

    Raises:
        AssertionError: if the class lacks a member, a rank ends with an error or not at all, or the rows differ.
    """
    check_class("executor", executor)
    name = executor.name
    problems = list(executor.problems(config))
    assert not problems, f"{name}: problems gives {problems}; check_executor wants one that works"
    world = executor.workers(config)
    alone, shared = (
        Job(
            recipe.document.value, str(recipe.document.file.resolve()), str(out / each), number,
            plugins=tuple(str(file.place) for file in recipe.plugins.files),
        )
        for each, number in (("alone", 1), ("shared", world))
    )  # fmt: skip
    assert run_rank(alone.values(), 0) == RankEnd(0).values()
    ends = list(executor(config).run(shared))
    wrong = [end for end in ends if end.kind is not None]
    assert not wrong, f"{name}: rank {wrong[0].rank} ended with {wrong[0].kind}: {wrong[0].error}"
    ranks = sorted(end.rank for end in ends)
    assert ranks == list(range(world)), f"{name}: of {world} ranks, {ranks} ended"
    for file in (CLEANED, DROPPED):
        assert (out / "shared" / file).read_bytes() == (out / "alone" / file).read_bytes(), (
            f"{name}: {file} is another one than that of one process"
        )
