"""What the views that learn from all labels at once remember of each sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from nfilter import JSON, Context, FloatArray, Sample, hash_of
from nfilter_robustft.discriminant import Labels
from nfilter_robustft.frequencies import frequencies
from nfilter_robustft.keys import is_trusted, label_of, options_of, text_of

CLASSES = 64
ROWS_PER_CLASS = 10


@dataclass(slots=True)
class Rows:
    """What fit remembers of each sample."""

    ids: list[str] = field(default_factory=list)
    queries: list[int] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    trusted: list[bool] = field(default_factory=list)
    vectors: list[FloatArray] = field(default_factory=list)
    closed: set[frozenset[str]] = field(default_factory=set)

    def add(self, sample: Sample, ctx: Context, trusted: str | None) -> None:
        """Remember all of ``sample`` but its vector; ``trusted`` names the column that marks right labels."""
        options = options_of(sample, ctx)
        if options:
            self.closed.add(frozenset(options))
        self.ids.append(sample.id)
        self.queries.append(hash_of(text_of(sample, ctx)))
        self.labels.append(label_of(sample, ctx))
        self.trusted.append(is_trusted(sample, trusted))

    def coded(self, classes: Sequence[str]) -> Labels:
        """The labels as positions in ``classes``; -1 where there is none."""
        number = {label: code for code, label in enumerate(classes)}
        codes = np.array([-1 if x is None else number[x] for x in self.labels], dtype=np.int64)
        return Labels(codes, np.array(self.trusted, dtype=bool) & (codes >= 0), len(classes))

    def are_open(self) -> bool:
        """Whether there are too many answers already for ``classes``, whatever rows follow."""
        return len(self.closed) > 1 or len(set(self.labels) - {None}) > CLASSES

    def classes(self) -> list[str] | None:
        """The distinct answers where they are few and the same for all samples, else None."""
        seen = {label for label in self.labels if label is not None}
        if self.closed:
            if len(self.closed) > 1:
                return None
            seen |= next(iter(self.closed))
        known = sum(label is not None for label in self.labels)
        if not 2 <= len(seen) <= CLASSES or known < ROWS_PER_CLASS * len(seen):
            return None
        return sorted(seen)


def frequencies_of(rows: Rows) -> dict[str, JSON]:
    """The shares of the answers, for a state."""
    return dict(frequencies(rows.labels, rows.trusted))


def reference(labels: Labels, size: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Positions of at most ``size`` rows: trusted ones first, then at random; in order."""
    if len(labels.codes) <= size:
        return np.arange(len(labels.codes))
    order = rng.permutation(len(labels.codes))
    rank = np.where(labels.trusted[order], 0, np.where(labels.known[order], 1, 2))
    return np.sort(order[np.argsort(rank, kind="stable")][:size])
