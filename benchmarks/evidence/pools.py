"""Models that stay loaded from cell to cell."""

from __future__ import annotations

from nfilter.engine.lookup import site_of
from nfilter.models.pool import ModelPool
from nfilter.recipe.model import Recipe
from nfilter.registry.loading import Plugins
from nfilter.store.files import digest


class Pools:
    """The models of one recipe at a time: nearly all cells have those of the base recipe."""

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins
        self._pool: ModelPool | None = None
        self._loaded = ""

    def of(self, recipe: Recipe) -> ModelPool:
        """The models of a recipe; those of another are closed."""
        models = digest(recipe.dump()["models"])
        if self._pool is None or self._loaded != models:
            self.close()
            self._pool, self._loaded = ModelPool(recipe, site_of(recipe, self._plugins)), models
        return self._pool

    def close(self) -> None:
        """Close the models."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None
