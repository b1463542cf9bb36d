"""The models of a run: each backend is built once, when it is first asked for, and only where its hosts are allowed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from nfilter.api.capabilities import Priced
from nfilter.api.errors import ModelError, did_you_mean
from nfilter.api.stages import Site
from nfilter.recipe.hosts import allow_host, unlisted_hosts
from nfilter.recipe.model import Recipe


class ModelPool:
    """The models of one run: each is built when it is first used, and closed with the pool."""

    def __init__(self, recipe: Recipe, site: Site) -> None:
        self.recipe = recipe
        self.site = site
        self._built: dict[str, Any] = {}

    def backend(self, name: str) -> Any:
        """The backend behind a model's name.

        Raises:
            ModelError: when the recipe has no such model, when it would send data where nobody allowed it, or when it
                cannot be built.
        """
        target = self.recipe.aliases.get(name, name)
        if target not in self._built:
            use = self.recipe.models.get(target)
            if use is None:
                raise ModelError(
                    f"no model {name!r} in the recipe{did_you_mean(name, self.recipe.models)}"
                )
            for host in unlisted_hosts(use.item.cls, use.config, self.recipe.allow_hosts):
                raise ModelError(
                    f"model {target!r} would send data to {host}, which only the recipe names; if you trust it, type: "
                    f"{allow_host(host)}"
                )
            self._built[target] = use.item.cls(use.config, self.site)
        return self._built[target]

    def paid_before(self, usd: float) -> None:
        """Charge the budget, if there is one, with the cost of earlier runs in the same directories."""
        if self.site.budget is not None:
            self.site.budget.paid_before(usd)

    def cost(self, name: str) -> Callable[[], str] | None:
        """What is to be said of money while a model is asked; None where its calls cost nothing."""
        use = self.recipe.model(name)
        if use is None or not isinstance(use.item.cls, Priced):
            return None
        price = use.item.cls.price(use.config)
        if price is None:
            return lambda: "price unknown"
        budget = self.site.budget
        return budget.summary if budget is not None and (price.prompt or price.completion) else None

    def capabilities(self, name: str) -> frozenset[type]:
        """Return the capabilities that a model's backend declares for its config."""
        use = self.recipe.model(name)
        return frozenset() if use is None else use.item.cls.abilities(use.config).capabilities

    def is_local(self, name: str) -> bool:
        """Whether a model runs here, so that its calls cost time and no money."""
        use = self.recipe.model(name)
        return use is not None and not isinstance(use.item.cls, Priced)

    def close(self) -> None:
        """Close every backend that was built."""
        built, self._built = self._built, {}
        with ExitStack() as stack:
            for backend in built.values():
                stack.callback(backend.close)
