"""Recipes that a test reads, and their faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nfilter import RecipeError
from nfilter.recipe.model import Recipe, load
from nfilter.registry.loading import Plugins
from tests.recipe.odd_stage import Odd


@pytest.fixture
def plugins(catalogue: Callable[..., Plugins]) -> Plugins:
    return catalogue(stages=[Odd])


@pytest.fixture
def reading(folder: Callable[..., Path], plugins: Plugins) -> Callable[..., Recipe]:
    def read(text: str, *assignments: str, name: str = "r.yaml") -> Recipe:
        return load(folder({name: text}) / name, plugins, assignments)

    return read


@pytest.fixture
def faults(reading: Callable[..., Recipe], tmp_path: Path) -> Callable[..., list[str]]:
    """The faults of a recipe, the folder cut off their places."""

    def find(text: str, *assignments: str, **more: str) -> list[str]:
        with pytest.raises(RecipeError) as caught:
            reading(text, *assignments, **more)
        return [fault.replace(f"{tmp_path}/", "") for fault in caught.value.faults]

    return find
