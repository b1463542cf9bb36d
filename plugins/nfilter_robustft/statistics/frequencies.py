"""Answer frequencies: the evidence about a label if a view has no answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

_MAX_ANSWERS = 64
_PRIOR = 10.0  # weight of all labels, in trusted rows


def frequencies(labels: Sequence[str | None], trusted: Sequence[bool]) -> dict[str, float]:
    """Return the shares of the 64 most frequent answers among trusted rows, smoothed by those of all labels.

    Wrong labels are spread over the answers, so a label with a rare answer is more likely wrong than a frequent one,
    even if only noisy labels are known.
    """
    counts = Counter(label for label in labels if label is not None)
    trusted_counts = Counter(
        label for label, right in zip(labels, trusted, strict=True) if right and label is not None
    )
    total, known = counts.total(), trusted_counts.total()
    if not total:
        return {}
    shares = {
        label: (trusted_counts[label] + _PRIOR * n / total) / (known + _PRIOR)
        for label, n in counts.items()
    }
    return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0]))[:_MAX_ANSWERS])


def restrict_to_options(shares: Mapping[str, float], options: Sequence[str]) -> dict[str, float]:
    """Return the normalised ``shares`` of a sample's ``options``; all shares without options."""
    if not options:
        return dict(shares)
    present = {option: shares[option] for option in options if option in shares}
    total = sum(present.values())
    return {option: share / total for option, share in present.items()} if len(present) > 1 else {}
