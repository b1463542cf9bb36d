"""One run in several processes: rank 0 executes the recipe, the other ranks only follow its trainer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from nfilter.api.errors import RecipeError
from nfilter.api.training import Follows
from nfilter.engine.lookup import site_of
from nfilter.recipe.model import Recipe
from nfilter.registry.loading import Plugins


@dataclass(frozen=True, slots=True)
class Launch:
    """The rank of this process, from 0, and the number of processes."""

    rank: int = 0
    size: int = 1

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> Launch:
        """Return the launch that torchrun or accelerate set in the environment; a single process if neither did.

        Raises:
            RecipeError: if RANK and WORLD_SIZE do not fit together.
        """
        values = {name: environment.get(name) for name in ("RANK", "WORLD_SIZE")}
        if values["WORLD_SIZE"] in (None, "", "1"):
            return cls()
        try:
            launch = cls(int(values["RANK"] or ""), int(values["WORLD_SIZE"] or ""))
        except ValueError:
            launch = cls(-1)
        if not 0 <= launch.rank < launch.size:
            raise RecipeError(
                f"the environment has no valid rank: RANK is {values['RANK']!r}, WORLD_SIZE "
                f"{values['WORLD_SIZE']!r}; start with torchrun --nproc-per-node 2 -m nfilter run RECIPE, or unset both"
            )
        return launch


def single_process_warning(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return a warning if ``accelerate launch --cpu`` was asked for several processes: it starts only one."""
    asked = environment.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1")
    if asked and "MASTER_PORT" in environment and "WORLD_SIZE" not in environment:
        return (
            "accelerate launch --cpu starts one process, whatever --num_processes says; several train with "
            "torchrun --nproc-per-node 2 -m nfilter run RECIPE, or with --multi_gpu instead of --cpu"
        )
    return None


def leading(recipe: Recipe, launch: Launch) -> AbstractContextManager[None]:
    """Return the context of rank 0's run: the other ranks are joined at its start and released at its end."""
    return nullcontext() if launch.size == 1 else _trainer(recipe, launch).lead()


def follow(recipe: Recipe, plugins: Plugins, launch: Launch) -> None:
    """Execute the jobs of rank 0's trainer until its run ends."""
    trainer = _trainer(recipe, launch)
    use = recipe.train
    assert use is not None
    loss = use.loss.item.cls(use.loss.config) if use.loss else None
    trainer.follow(site_of(recipe, plugins), loss)


def _trainer(recipe: Recipe, launch: Launch) -> Any:
    use = recipe.train
    trainer = use.item.cls(use.config) if use is not None else None
    if not isinstance(trainer, Follows):
        what = f"{use.name} trains in one process" if use is not None else "it has no training"
        raise RecipeError(
            f"{recipe.document.file}: {launch.size} processes were started for this recipe, and {what}; type "
            f"nfilter run {recipe.document.file}, without torchrun or accelerate launch"
        )
    return trainer
