"""What a model's tokens cost: as its config says, else as litellm's price list has it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nfilter import Price
from nfilter_litellm.config import LiteLLMConfig, route

_LIST = "model_prices_and_context_window_backup.json"


def price_of(config: LiteLLMConfig) -> Price | None:
    """Dollars a token; None where neither the config nor the list tells. litellm itself is not imported for it.

    What a model costs in batches is the list's to say: the full price where it has no other.
    """
    if config.price is not None:
        return Price(config.price.prompt / 1e6, config.price.completion / 1e6)
    listed = _listed()
    for name in dict.fromkeys((config.model, route(config).name)):
        entry = listed.get(name)
        if isinstance(entry, Mapping):
            for suffix in ("_batches", "") if config.batch else ("",):
                prompt, made = (
                    entry.get(f"{part}_cost_per_token{suffix}") for part in ("input", "output")
                )
                if isinstance(prompt, int | float) and isinstance(made, int | float):
                    return Price(float(prompt), float(made))
    return None


@lru_cache(maxsize=1)
def _listed() -> Mapping[str, Any]:
    spec = find_spec("litellm")
    file = Path(spec.origin).with_name(_LIST) if spec is not None and spec.origin else None
    if file is None or not file.is_file():
        return {}
    value: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    # Regions and sizes that cost more are not told apart: an entry that names one has its own name in the list.
    return value
