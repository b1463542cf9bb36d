"""Price per token of a model: from its config, else from litellm's price list."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nfilter import Price
from nfilter_litellm.config import LiteLLMConfig, route_of

_LIST = "model_prices_and_context_window_backup.json"


def price_of(config: LiteLLMConfig) -> Price | None:
    """Return the price in dollars per token; None if unknown. Does not import litellm.

    The batch price is taken from the list; a model without one has the full price.
    """
    if config.price is not None:
        return Price(config.price.prompt / 1e6, config.price.completion / 1e6)
    price_list = _price_list()
    provider, _, own = config.model.partition("/")
    for name in dict.fromkeys((config.model, route_of(config).name, own)):
        entry = price_list.get(name)
        # Without its provider a name may be the model of another one.
        if isinstance(entry, Mapping) and (
            name != own or entry.get("litellm_provider") == provider
        ):
            for suffix in ("_batches", "") if config.batch else ("",):
                prompt, completion = (
                    entry.get(f"{part}_cost_per_token{suffix}") for part in ("input", "output")
                )
                if isinstance(prompt, int | float) and isinstance(completion, int | float):
                    return Price(float(prompt), float(completion))
    return None


@lru_cache(maxsize=1)
def _price_list() -> Mapping[str, Any]:
    spec = find_spec("litellm")
    file = Path(spec.origin).with_name(_LIST) if spec is not None and spec.origin else None
    if file is None or not file.is_file():
        return {}
    value: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    # More expensive regions and sizes have their own entries in the list.
    return value
