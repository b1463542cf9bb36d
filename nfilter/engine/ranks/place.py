"""The place of this process in a run of several ranks, from the command line or a scheduler's environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from nfilter.api.errors import RecipeError, short

AUTO = "auto"
_RANKS = ("SLURM_PROCID", "JOB_COMPLETION_INDEX")
_WORLD = "SLURM_NTASKS"


@dataclass(frozen=True, slots=True)
class Place:
    """The number of this process, from 0, and the number of processes that share the chunks of stages."""

    rank: int = 0
    world: int = 1

    @classmethod
    def of(
        cls, rank: str | None, world: int | None, environment: Mapping[str, str] = os.environ
    ) -> Place:
        """Return the place that ``--rank`` and ``--world`` name; only ``--rank auto`` reads the environment.

        Raises:
            RecipeError: if they name no place.
        """
        if rank is None:
            if world is not None:
                raise RecipeError(f"--world {world} needs a rank; add --rank 0 or --rank auto")
            return cls()
        if rank == AUTO:
            return _automatic(world, environment)
        if world is None:
            raise RecipeError(f"--rank {short(rank)} needs the number of ranks; add --world 2")
        return _placed(rank, world, f"--rank {short(rank)} --world {world}")


ALL = Place()
"""The place of a process that does all chunks."""


def _automatic(world: int | None, environment: Mapping[str, str]) -> Place:
    name = next((name for name in _RANKS if environment.get(name)), None)
    if name is None:
        raise RecipeError(
            f"--rank auto: none of {', '.join(_RANKS)} is set; start it with srun or in an indexed Job, or write --rank 0"
        )
    tasks = environment.get(_WORLD) if name == "SLURM_PROCID" else None
    if world is None and not tasks:
        raise RecipeError(
            f"--rank auto: {name} is set, and nothing tells the number of ranks; add --world 2"
        )
    if world is not None and tasks and tasks != str(world):
        raise RecipeError(
            f"--rank auto: {_WORLD} is {short(tasks)}, and --world is {world}; leave out --world, or start srun --ntasks={world}"
        )
    size = tasks if world is None else str(world)
    told = f"{name}={short(environment[name])} with {short(size or '')} ranks"
    return _placed(environment[name], size or "", f"--rank auto: {told}")


def _placed(rank: str, world: int | str, told: str) -> Place:
    try:
        place = Place(int(rank), int(world))
    except ValueError:
        place = Place(-1)
    if not 0 <= place.rank < place.world:
        raise RecipeError(
            f"{told}: not a rank; ranks are whole numbers from 0 to the number of ranks less one: write --rank 0 --world 2"
        )
    return place
