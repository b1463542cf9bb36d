"""How far a run is, in words for a progress bar: stage n of N, or the arm."""

from __future__ import annotations

from nfilter.recipe.model import Recipe


def whereabouts(recipe: Recipe, label: str) -> str:
    """The place of what is at work: ``stage 2 of 6``, ``token stage 1 of 2``, ``arm 1 of 4 (cleaned)``; else nothing.

    ``label`` is a sample stage's number and name, a token stage's name, ``train.ARM`` or ``evaluate.ARM``.
    """
    kind, _, arm = label.partition(".")
    if kind in ("train", "evaluate") and arm in recipe.arms:
        order = [str(name) for name in recipe.arms]
        return f"arm {order.index(arm) + 1} of {len(order)} ({arm})"
    number = label.partition("-")[0]
    if number.isdigit() and "-" in label and 0 < int(number) <= len(recipe.samples):
        return f"stage {int(number)} of {len(recipe.samples)}"
    names = [use.name for use in recipe.tokens]
    name = label.removesuffix(".train")
    if name in names:
        return f"token stage {names.index(name) + 1} of {len(names)}"
    return ""
