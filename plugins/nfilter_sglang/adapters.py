"""What SGLang applies of a LoRA adapter."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Final

from nfilter import AdapterSupport

_ATTENTION: Final = frozenset({"q_proj", "k_proj", "v_proj"})


def unapplied_layers(layers: Collection[str]) -> str | None:
    """Return in words the layers that SGLang does not apply; None if it applies all.

    It has one matrix for q, k and v, which it joins from those of q and v, and of k if there is one. Where q or v is missing, it fails
    at the first call.
    """
    attention = defaultdict(set)
    for layer in layers:
        parent, _, name = layer.rpartition(".")
        if name in _ATTENTION:
            attention[parent].add(name)
    for parent, names in sorted(attention.items()):
        missing = sorted({"q_proj", "v_proj"} - names)
        if missing:
            return f"{' and '.join(sorted(names))} without {' and '.join(missing)} in {parent}"
    return None


# sglang/srt/lora/lora.py of SGLang 0.5.23 scales every layer by lora_alpha / r.
SUPPORT: Final = AdapterSupport(unapplied_layers=unapplied_layers)
