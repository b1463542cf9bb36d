"""Whether what encodes and what is trained read the same ids as the same text."""

from __future__ import annotations

from collections.abc import Callable

from nfilter.api.capabilities import Tokenizes
from nfilter.api.errors import RecipeError
from nfilter.models.pool import ModelPool
from nfilter.recipe.model import Recipe


def check_tokenizers(recipe: Recipe, pool: ModelPool, warn: Callable[[str], None]) -> None:
    """Compare the tokenizers of the model under ``encode`` and of the one that is trained, where they are two.

    Nothing is compared where a backend does not tell its own.

    Raises:
        RecipeError: when the same ids are other text to them.
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
            f"{recipe.located.place(('encode', 'model'))}: encode.model {encodes!r} has another tokenizer than "
            f"{trained!r}, which is trained: the same ids are other text to it; {remedy}"
        )
    if made.template != read.template:
        warn(
            f"encode.model {encodes!r} has another chat template than {trained!r}, which is trained: it learns turns "
            f"in one form and is asked in the other; {remedy}"
        )
