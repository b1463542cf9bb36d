"""The position of a step in its run, for a progress bar."""

from __future__ import annotations

from nfilter.recipe.model import Recipe


def step_position(recipe: Recipe, label: str) -> str:
    """Return the position, e.g. ``stage 2 of 6``, ``token stage 1 of 2``, ``arm 1 of 4 (cleaned)``; else an empty text.

    ``label`` is a stage's number and name, ``train.ARM`` or ``evaluate.ARM``.
    """
    kind, _, arm = label.partition(".")
    if kind in ("train", "evaluate") and arm in recipe.arms:
        order = [str(name) for name in recipe.arms]
        return f"arm {order.index(arm) + 1} of {len(order)} ({arm})"
    number, dash, _ = label.partition("-")
    if not dash or not number.isdigit():
        return ""
    place, samples, tokens = int(number), len(recipe.samples), len(recipe.tokens)
    if 0 < place <= samples:
        return f"stage {place} of {samples}"
    # Encoding is the step between sample stages and token stages.
    place -= samples + 1
    return f"token stage {place} of {tokens}" if 0 < place <= tokens else ""
