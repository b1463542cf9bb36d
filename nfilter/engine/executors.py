"""A run by the recipe's executor: what it is given, one rank of it, and how its end is that of the ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from nfilter.api import errors
from nfilter.api.errors import ContractError, NfilterError
from nfilter.api.executors import Job, RankEnd
from nfilter.api.types import JSON
from nfilter.engine.error_attribution import attributed
from nfilter.engine.ranks.division import world_of
from nfilter.engine.ranks.place import Place
from nfilter.engine.ranks.worker import EndedError, follow
from nfilter.engine.run import run
from nfilter.progress import reporter_for
from nfilter.recipe.model import Recipe


def execute(
    recipe: Recipe,
    out: Path,
    *,
    limit: int | None = None,
    progress: bool = False,
    lenders: Sequence[Path] = (),
) -> None:
    """Run a recipe by its executor, in as many processes as its settings say.

    Args:
        recipe: A recipe with an executor.
        out: The run directory.
        limit: The number of rows that are read; None reads all.
        progress: Whether progress is printed.
        lenders: Journals of other runs whose answers are reused.

    Raises:
        NfilterError: the error of the first rank that ended with one, of the class that it had there.
        ContractError: if the executor loses the end of a rank.
    """
    use = recipe.executor
    if use is None:
        raise TypeError("the recipe has no executor")
    cls = use.item.cls
    job = Job(
        recipe={**recipe.document.value, "name": recipe.name},
        file=str(recipe.document.file.resolve()),
        out=str(out.resolve()),
        world=world_of(recipe),
        limit=limit,
        progress=progress,
        plugins=tuple(str(file.place) for file in recipe.plugins.files),
        lenders=tuple(str(path.resolve()) for path in lenders),
        allow_hosts=tuple(sorted(recipe.allow_hosts)),
        allow=tuple(sorted(recipe.allow)),
    )
    done = set()
    with attributed(recipe.plugins, "executor"), closing(cls(use.config).run(job)) as ends:
        for end in ends:
            if end.kind is None:
                done.add(end.rank)
            elif end.kind != EndedError.__name__:
                raise _error_of(end)
    if missing := sorted(set(range(job.world)) - done):
        raise ContractError(
            f"executor {use.name!r} lost rank {missing[0]} of {job.world}; run the same command to resume"
        )


def run_rank(job: Mapping[str, Any], rank: int) -> dict[str, JSON]:
    """Run one rank of a job in this process until the run ends; executors call it where a rank shall be.

    Args:
        job: What ``Job.values`` returned.
        rank: The rank, from 0.

    Returns:
        The values of a ``RankEnd``. An error is in it and not raised.
    """
    asked = Job.of(job)
    place = Place(rank, asked.world)
    out, lenders = Path(asked.out), [Path(path) for path in asked.lenders]
    reporter = reporter_for(quiet=rank > 0 or not asked.progress)
    try:
        recipe = Recipe.from_dict(
            asked.recipe,
            asked.plugins,
            file=asked.file,
            allow_hosts=frozenset(asked.allow_hosts),
            allow=asked.allow,
        )
        plugins = recipe.plugins
        if rank:
            follow(
                recipe, plugins, out, place,
                limit=asked.limit, reporter=reporter, lenders=lenders,
            )  # fmt: skip
        else:
            run(
                recipe, plugins, out,
                limit=asked.limit, reporter=reporter, lenders=lenders, place=place,
            )  # fmt: skip
    except Exception as error:  # noqa: BLE001 - the process that started the ranks reports it
        return RankEnd(rank, type(error).__name__, str(error) or repr(error)).values()
    return RankEnd(rank).values()


def _error_of(end: RankEnd) -> NfilterError:
    """Return the error that ended a rank, of the same class if it is one of nfilter's."""
    cls: Any = getattr(errors, str(end.kind), None)
    own = isinstance(cls, type) and issubclass(cls, NfilterError)
    text = end.error if own else f"{end.kind}: {end.error}"
    error: NfilterError = (cls if own else NfilterError)(
        f"rank {end.rank}: {text}" if end.rank else text
    )
    return error
