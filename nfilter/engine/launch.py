"""One run in several processes: the first does the run, the others work for its trainer and touch nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from nfilter.api.errors import RecipeError
from nfilter.api.stages import Follows
from nfilter.engine.lookup import site_of
from nfilter.recipe.model import Recipe
from nfilter.registry.loading import Plugins


@dataclass(frozen=True, slots=True)
class Launch:
    """This process is number ``rank``, from 0, of ``size``."""

    rank: int = 0
    size: int = 1

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> Launch:
        """What torchrun, or accelerate, put into the environment; one process where neither did.

        Raises:
            RecipeError: where the environment contradicts itself.
        """
        found = {name: environment.get(name) for name in ("RANK", "WORLD_SIZE")}
        if found["WORLD_SIZE"] in (None, "", "1"):
            return cls()
        try:
            launch = cls(int(found["RANK"] or ""), int(found["WORLD_SIZE"] or ""))
        except ValueError:
            launch = cls(-1)
        if not 0 <= launch.rank < launch.size:
            raise RecipeError(
                f"the environment names no process of a launch: RANK is {found['RANK']!r}, WORLD_SIZE "
                f"{found['WORLD_SIZE']!r}; start with torchrun --nproc-per-node 2 -m nfilter run RECIPE, or unset both"
            )
        return launch


def lonely(environment: Mapping[str, str] = os.environ) -> str | None:
    """What to say to one who asked ``accelerate launch --cpu`` for several processes: it starts a single one."""
    asked = environment.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1")
    if asked and "MASTER_PORT" in environment and "WORLD_SIZE" not in environment:
        return (
            "accelerate launch --cpu starts one process, whatever --num_processes says; several train with "
            "torchrun --nproc-per-node 2 -m nfilter run RECIPE, or with --multi_gpu in place of --cpu"
        )
    return None


def leading(recipe: Recipe, launch: Launch) -> AbstractContextManager[None]:
    """Around the run of the first process: the others are met at its beginning, and sent home at its end."""
    return nullcontext() if launch.size == 1 else _trainer(recipe, launch).lead()


def follow(recipe: Recipe, plugins: Plugins, launch: Launch) -> None:
    """Work for the first process's trainer until its run is over."""
    trainer = _trainer(recipe, launch)
    use = recipe.train
    assert use is not None
    loss = use.loss.item.cls(use.loss.config) if use.loss else None
    trainer.follow(site_of(recipe, plugins), loss)


def _trainer(recipe: Recipe, launch: Launch) -> Any:
    use = recipe.train
    trainer = use.item.cls(use.config) if use is not None else None
    if not isinstance(trainer, Follows):
        what = f"{use.name} trains in one process" if use is not None else "it trains nothing"
        raise RecipeError(
            f"{recipe.located.file}: {launch.size} processes were started for this recipe, and {what}; type "
            f"nfilter run {recipe.located.file}, without torchrun or accelerate launch"
        )
    return trainer
