"""Labels, queries and vectors collected for views that learn from all labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import numpy.typing as npt

from nfilter import JSON, Context, FloatArray, Sample, hash_of
from nfilter_robustft.keys import is_trusted, label_of, options_of, text_of
from nfilter_robustft.statistics.discriminant import Labels
from nfilter_robustft.statistics.frequencies import frequencies

MAX_CLASSES = 64
ROWS_PER_CLASS = 10
_BLOCK = 1024  # samples that are embedded together


@dataclass(slots=True)
class LabelledRows:
    """Data of all samples: ``vectors`` are blocks [n, d] per encoder, ``option_sets`` the distinct sets of options."""

    ids: list[str] = field(default_factory=list)
    queries: list[int] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    trusted: list[bool] = field(default_factory=list)
    vectors: list[list[FloatArray]] = field(default_factory=list)
    option_sets: set[frozenset[str]] = field(default_factory=set)

    def add(self, sample: Sample, ctx: Context, trusted: str | None) -> None:
        """Add ``sample`` without its vector; ``trusted`` names the column that marks right labels."""
        options = options_of(sample, ctx)
        if options:
            self.option_sets.add(frozenset(options))
        self.ids.append(sample.id)
        self.queries.append(hash_of(text_of(sample, ctx)))
        self.labels.append(label_of(sample, ctx))
        self.trusted.append(is_trusted(sample, trusted))

    def encode(self, classes: Sequence[str]) -> Labels:
        """Return the labels as indices into ``classes``; -1 without a label."""
        number = {label: code for code, label in enumerate(classes)}
        codes = np.array([-1 if x is None else number[x] for x in self.labels], dtype=np.int64)
        return Labels(codes, np.array(self.trusted, dtype=bool) & (codes >= 0), len(classes))

    def are_open(self, most: int) -> bool:
        """Return whether ``classes`` is None for any further rows."""
        return len(self.option_sets) > 1 or len(set(self.labels) - {None}) > most

    def classes(self, most: int = MAX_CLASSES) -> list[str] | None:
        """Return the distinct answers if they are at most ``most`` and shared by all samples, else None."""
        answers = {label for label in self.labels if label is not None}
        if self.option_sets:
            if len(self.option_sets) > 1:
                return None
            answers |= next(iter(self.option_sets))
        known = sum(label is not None for label in self.labels)
        if not 2 <= len(answers) <= most or known < ROWS_PER_CLASS * len(answers):
            return None
        return sorted(answers)


def collect_rows(
    stream: Iterable[Sample],
    ctx: Context,
    encoders: Sequence[str],
    trusted: str | None,
    *,
    closed: int | None = None,
    keep: Callable[[FloatArray], None] | None = None,
) -> LabelledRows:
    """Collect all labels, and embed the queries with each encoder; with ``closed``, only while there are at most so many answers.

    ``keep`` receives the blocks of vectors of one encoder instead of ``LabelledRows.vectors``.
    """
    rows = LabelledRows(vectors=[[] for _ in encoders])
    samples = iter(stream)
    with ctx.progress(None, "embedding queries") as progress:
        while block := list(islice(samples, _BLOCK)):
            for sample in block:
                rows.add(sample, ctx, trusted)
            if closed is None or not rows.are_open(closed):
                for name, blocks in zip(encoders, rows.vectors, strict=True):
                    (keep or blocks.append)(embed_queries(block, name, ctx))
            progress.advance(len(block))
    return rows


def embed_queries(samples: Sequence[Sample], encoder: str, ctx: Context) -> FloatArray:
    """Return the vectors of the samples' queries, float32 [n, d]."""
    texts = [text_of(sample, ctx) for sample in samples]
    return np.asarray(ctx.model(encoder).embed(texts), dtype=np.float32)


def frequencies_of(rows: LabelledRows) -> dict[str, JSON]:
    """Return the answer frequencies for a stage's state."""
    return dict(frequencies(rows.labels, rows.trusted))


def choose_reference(labels: Labels, size: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return sorted indices of at most ``size`` rows: trusted ones, then a random sample of labelled ones."""
    if len(labels.codes) <= size:
        return np.arange(len(labels.codes))
    order = rng.permutation(len(labels.codes))
    rank = np.where(labels.trusted[order], 0, np.where(labels.known[order], 1, 2))
    return np.sort(order[np.argsort(rank, kind="stable")][:size])
