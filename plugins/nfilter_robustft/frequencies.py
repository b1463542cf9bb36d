"""How frequent each answer is: what is left to say of a label where a view has no answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

_SHOWN = 64
_PRIOR = 10.0  # the observed labels count as so many trusted rows


def frequencies(labels: Sequence[str | None], trusted: Sequence[bool]) -> dict[str, float]:
    """The shares of the 64 most frequent answers: those of trusted rows where there are any, smoothed by all labels'.

    Wrong labels spread over the answers, so a label whose answer is rare is likelier wrong than a frequent one, even
    where all that is known are the noisy labels themselves.
    """
    every = Counter(label for label in labels if label is not None)
    right = Counter(
        label for label, sure in zip(labels, trusted, strict=True) if sure and label is not None
    )
    total, known = every.total(), right.total()
    if not total:
        return {}
    shares = {
        label: (right[label] + _PRIOR * n / total) / (known + _PRIOR) for label, n in every.items()
    }
    return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN])


def among(shares: Mapping[str, float], options: Sequence[str]) -> dict[str, float]:
    """``shares`` of the ``options`` of one sample alone, as shares of 1; all of them where it has no options."""
    if not options:
        return dict(shares)
    found = {option: shares[option] for option in options if option in shares}
    total = sum(found.values())
    return {option: share / total for option, share in found.items()} if len(found) > 1 else {}
