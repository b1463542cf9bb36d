"""`nfilter lint`: encode the rows of a source without running stages, and check the tokens."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from nfilter.api.capabilities import Tokenizes
from nfilter.api.errors import NothingLeftError, RecipeError, SourceError
from nfilter.api.types import Row, Sample
from nfilter.engine.ingest import rows
from nfilter.engine.lint import lint
from nfilter.engine.lookup import site_of
from nfilter.engine.tokenizers import check_tokenizers
from nfilter.models.pool import ModelPool
from nfilter.recipe.model import Recipe
from nfilter.recipe.not_carried import NotCarried
from nfilter.recipe.readable import Readable
from nfilter.registry.loading import Plugins


@dataclass(frozen=True, slots=True)
class Preview:
    """The figures that a run writes under ``encode``, and its warnings."""

    figures: dict[str, Any]
    warnings: list[str]


def preview(recipe: Recipe, plugins: Plugins, limit: int | None = None) -> Preview:
    """Encode the source without running stages. A backend that can encode without weights loads none.

    Raises:
        SourceError: if no row can be read.
        RecipeError: if the recipe has no model to encode with, or the trained model has another tokenizer.
        NothingLeftError: if no row has a token in the loss.
    """
    if recipe.model(recipe.encode.model) is None:
        raise RecipeError(
            recipe.document.fault(
                ("encode", "model"),
                f"lint encodes rows with {recipe.encode.model!r}, which is not under models; add it, e.g. "
                "models: {student: {use: BACKEND, model: NAME}}, or name another: encode: {model: NAME}",
            )
        )
    warnings: list[str] = []
    readable, not_carried = Readable(), NotCarried()
    items: list[Sample] = []
    for row in rows(recipe.source, recipe, limit):
        readable.add(row)
        not_carried.add(row)
        if isinstance(row, Row):
            items.append(row.sample)
    if not items:
        place = recipe.document.place(recipe.source.use.where)
        raise SourceError(f"{place}: {readable.message(first=False)}")
    warnings += readable.warnings(first=limit is not None)
    warnings += not_carried.warnings()
    pool = ModelPool(recipe, site_of(recipe, plugins))
    try:
        check_tokenizers(recipe, pool, warnings.append)
        model = pool.backend(recipe.encode.model)
        config = recipe.encode
        encoded = model.encode(items, max_length=config.max_length, turns=config.turns)
        tokenizes = isinstance(model, Tokenizes)
        found = lint(config, items, encoded, model.decode if tokenizes else lambda _: None)
        digest = asdict(model.tokenizer_digest()) if tokenizes else None
    finally:
        pool.close()
    if not found.kept:
        raise NothingLeftError(
            f"none of the {len(items)} rows has a token in the loss; the first: {found.dropped[0][1]}"
        )
    return Preview({**found.figures, "tokenizer": digest}, [*warnings, *found.warnings])
