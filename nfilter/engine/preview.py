"""The rows of a source as tokens, before any stage runs: what training would see, and what it would not."""

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
    """The figures that a run has under ``encode``, and what it would warn of."""

    figures: dict[str, Any]
    warnings: list[str]


def preview(recipe: Recipe, plugins: Plugins, limit: int | None = None) -> Preview:
    """Encode the source as it is, without its stages. No weights are loaded where the backend can do without.

    Raises:
        SourceError: when no row can be read.
        RecipeError: when the model that is trained has another tokenizer.
        NothingLeftError: when no row has a token in the loss.
    """
    if recipe.model(recipe.encode.model) is None:
        raise RecipeError(
            recipe.located.fault(
                ("encode", "model"),
                f"lint encodes rows with {recipe.encode.model!r}, and there is no such model under models; add one, such as "
                "models: {student: {use: hf, model: NAME}}, or name yours: encode: {model: NAME}",
            )
        )
    said: list[str] = []
    found_rows, not_carried = Readable(), NotCarried()
    items: list[Sample] = []
    for row in rows(recipe.source, recipe, limit):
        found_rows.add(row)
        not_carried.add(row)
        if isinstance(row, Row):
            items.append(row.sample)
    if not items:
        place = recipe.located.place(recipe.source.use.where)
        raise SourceError(f"{place}: {found_rows.told(first=False)}")
    said += found_rows.warnings(first=limit is not None)
    said += not_carried.warnings()
    pool = ModelPool(recipe, site_of(recipe, plugins))
    try:
        check_tokenizers(recipe, pool, said.append)
        model = pool.backend(recipe.encode.model)
        config = recipe.encode
        encoded = model.encode(items, max_length=config.max_length, turns=config.turns)
        tells = isinstance(model, Tokenizes)
        found = lint(config, items, encoded, model.decode if tells else lambda _: None)
        digest = asdict(model.tokenizer_digest()) if tells else None
    finally:
        pool.close()
    if not found.kept:
        raise NothingLeftError(
            f"none of the {len(items)} rows has a token in the loss; the first: {found.gone[0][1]}"
        )
    return Preview({**found.figures, "tokenizer": digest}, [*said, *found.warnings])
