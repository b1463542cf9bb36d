"""Copies of data on other machines: from allowed hosts only, before anything of a source is read."""

from __future__ import annotations

import shlex

from nfilter.api.data import FetchesData, ShowsBytes, show_no_bytes
from nfilter.api.errors import RecipeError
from nfilter.recipe.hosts import (
    allow_host,
    allowed_source_hosts,
    unlisted_hosts,
    unlisted_source_hosts,
)
from nfilter.recipe.model import Recipe
from nfilter.recipe.uses import SourceUse


def sources_of(recipe: Recipe) -> list[SourceUse]:
    """Return the sources of a recipe: the data and, where there is one, the test set."""
    return [source for source in (recipe.source, recipe.test) if source is not None]


def unlisted(recipe: Recipe, source: SourceUse) -> list[str]:
    """Return the hosts that a source reads from and that the user did not allow."""
    return unlisted_source_hosts(source.use.item.cls, source.use.config, recipe.allow_hosts)


def refusal(recipe: Recipe, host: str) -> str:
    """Return the fault of a source at a host that the user did not allow."""
    return (
        f"this would read from {host}, which only the recipe names; if you trust it, type: "
        f"{allowing(recipe)}"
    )


def allowing(recipe: Recipe) -> str:
    """Return the command that allows all unlisted hosts of the recipe, with the overrides of this call."""
    document = recipe.document
    hosts = [
        host
        for use in recipe.models.values()
        for host in unlisted_hosts(use.item.cls, use.config, recipe.allow_hosts)
    ]
    hosts += [host for source in sources_of(recipe) for host in unlisted(recipe, source)]
    given = [word for text in document.overridden.values() for word in ("--set", text)]
    return allow_host(*dict.fromkeys(hosts), recipe=shlex.join([str(document.file), *given]))


def fetch(recipe: Recipe, source: SourceUse, progress: ShowsBytes = show_no_bytes) -> None:
    """Copy the data of a source to this machine, if it is on another one and there is no copy of its present version.

    ``progress`` shows the bytes that are copied.

    Raises:
        RecipeError: a host is not allowed.
        SourceError: the data cannot be copied.
    """
    for host in unlisted(recipe, source):
        raise RecipeError(recipe.document.fault(source.use.where, refusal(recipe, host)))
    cls = source.use.item.cls
    if issubclass(cls, FetchesData):
        allowed = allowed_source_hosts(cls, recipe.allow_hosts)
        cls.fetch(source.use.config, recipe.base_dir, allowed, progress)


def fetch_all(recipe: Recipe, progress: ShowsBytes = show_no_bytes) -> None:
    """Copy the data of all sources of a recipe to this machine; raises as ``fetch`` does."""
    for source in sources_of(recipe):
        fetch(recipe, source, progress)
