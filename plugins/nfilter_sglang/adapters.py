"""What SGLang applies of a LoRA adapter."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection
from typing import Final

from nfilter import AdapterSupport

_NUMBERED: Final = re.compile(r"layers\.\d+\.")
_UNNUMBERED: Final = ("embed_tokens", "lm_head")
_ATTENTION: Final = frozenset({"q_proj", "k_proj", "v_proj"})


def unapplied_layers(layers: Collection[str]) -> str | None:
    """Return in words the layers that SGLang does not apply; None if it applies all.

    It finds the layer of a matrix by ``layers.NUMBER.`` in its name alone: a matrix without one is ignored, and one of another
    part of the model, such as the layers for images, takes the place of that of the language model.
    Of q, k and v it has one matrix, which it joins from those of q and v, and of k if there is one. Where q or v is missing, it
    fails at the first call.
    """
    parts = set()
    for layer in sorted(layers):
        number = _NUMBERED.search(layer)
        if number is not None:
            parts.add(layer[: number.start()])
        elif not any(name in layer for name in _UNNUMBERED):
            return f"a matrix for {layer}, whose name has no 'layers.' and number"
    if len(parts) > 1:
        return f"matrices for the layers of {' and '.join(sorted(parts))}"
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
