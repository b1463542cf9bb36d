"""What the parts of a check share: the recipe, and the report that they add to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from nfilter.api.data import ShowsBytes, show_no_bytes
from nfilter.api.stages import Site
from nfilter.recipe.model import Recipe
from nfilter.recipe.prompts import Prompts
from nfilter.recipe.uses import Use
from nfilter.recipe.yaml_lines import Where
from nfilter.registry.loading import Plugins


@dataclass
class Report:
    """The result of a check: ``faults`` would end a run, ``warnings`` and ``facts`` would not.

    ``data_faults`` are the faults among them that the rows of a source have. ``memory`` has bytes by part of the training.
    """

    faults: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    memory: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    data_faults: list[str] = field(default_factory=list)


@dataclass
class Checking:
    """A check in progress.

    ``rewritten`` are the places with a fault that names the lines to write instead. ``rows`` is the number of readable rows of the
    source, if the check has read them all. ``progress`` shows the bytes of data that are copied from another machine.
    """

    recipe: Recipe
    plugins: Plugins
    site: Site
    prompts: Prompts
    report: Report = field(default_factory=Report)
    rewritten: set[Where] = field(default_factory=set)
    rows: int | None = None
    progress: ShowsBytes = show_no_bytes

    def fault(self, where: Where, text: str) -> None:
        """Add a fault at a place of the recipe."""
        self.report.faults.append(self.recipe.document.fault(where, text))

    def uses(self) -> Iterator[Use]:
        """Yield the stages, the trainer and its loss."""
        yield from self.recipe.samples
        yield from self.recipe.tokens
        if self.recipe.train is not None:
            yield self.recipe.train
            if self.recipe.train.loss is not None:
                yield self.recipe.train.loss

    def where_named(self, use: Use, name: str) -> Where:
        """Return the place of the setting of ``use`` with the value ``name``, or that of ``use``."""
        for key, value in use.config.model_dump(by_alias=True).items():
            if value == name and self.recipe.document.has((*use.where, key)):
                return (*use.where, key)
            if isinstance(value, list | tuple) and name in value:
                where = (*use.where, key, list(value).index(name))
                if self.recipe.document.has(where):
                    return where
        return use.where
