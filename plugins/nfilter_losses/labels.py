"""The model's probability of a label, which several losses read."""

from __future__ import annotations

from typing import Any


def label_log_probability(logits: Any, labels: Any) -> Any:
    """Return log p(label), [m] float32, of ``logits`` [m, V] and ``labels`` [m]."""
    return logits.float().log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
