"""Check that the encoder and the trained model share one tokenizer."""

from __future__ import annotations

from collections.abc import Callable

from nfilter.api.capabilities import Tokenizes
from nfilter.api.errors import RecipeError
from nfilter.models.pool import ModelPool
from nfilter.recipe.model import Recipe


def check_tokenizers(recipe: Recipe, pool: ModelPool, warn: Callable[[str], None]) -> None:
    """Compare the tokenizers of the model under ``encode`` and of the trained model, if these are two models.

    A backend without a tokenizer digest is not compared.

    Raises:
        RecipeError: if the tokenizers differ.
    """
    encodes = recipe.encode.model
    trained = recipe.train.config.model if recipe.train is not None else encodes
    if recipe.model(trained) is recipe.model(encodes):
        return
    one, other = pool.backend(encodes), pool.backend(trained)
    if not isinstance(one, Tokenizes) or not isinstance(other, Tokenizes):
        return
    made, read = one.tokenizer_digest(), other.tokenizer_digest()
    remedy = f"set encode: {{model: {trained}}}"
    if made.tokenizer != read.tokenizer:
        raise RecipeError(
            f"{recipe.document.place(('encode', 'model'))}: encode.model {encodes!r} has another tokenizer than "
            f"{trained!r}, which is trained: it maps the same ids to other text; {remedy}"
        )
    if made.template != read.template:
        warn(
            f"encode.model {encodes!r} has another chat template than {trained!r}, which is trained: it is trained on one "
            f"format and evaluated with another; {remedy}"
        )
