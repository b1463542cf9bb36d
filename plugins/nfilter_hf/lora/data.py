"""The batches of training: what is predicted, in which order, in which forward pass, with what coefficient.

Everything here is numpy and decided before a model runs, so that the loss of an optimiser step does not depend
on how the step is split into micro-batches.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, Final, Literal

import numpy as np

from nfilter import FloatArray, IntArray, TokenSample

LossNorm = Literal["tokens", "samples", "microbatch"]
MeanOver = Literal["given", "weighed"]


@dataclass(frozen=True, slots=True)
class TrainRow:
    """One sample as training sees it: ``inputs`` [T-1], and n predictions that count.

    ``positions`` [n] index ``inputs``: the hidden state there predicts ``labels`` [n], whose weights in the loss
    are ``weights`` [n], all of them other than 0. Nothing follows the last prediction. ``scores`` are those of the
    sample at the same predictions, each [n]; empty where training reads none.
    """

    inputs: IntArray
    positions: IntArray
    labels: IntArray
    weights: FloatArray
    scores: Mapping[str, FloatArray] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One forward pass over B rows padded on the right to L: ``inputs`` [B, L], flat ``positions`` [n] into B*L.

    The loss of the whole optimiser step is the sum over its micro-batches of ``coefficients . losses``. ``rows`` are
    those that it was made of, in order: their predictions one after another are its n.
    """

    inputs: IntArray
    positions: IntArray
    labels: IntArray
    coefficients: FloatArray
    rows: tuple[TrainRow, ...]


def training_row(sample: TokenSample, *, scored: bool = False) -> TrainRow | None:
    """What ``sample`` teaches, cut after its last weighted token; None where no weighted token can be predicted.

    The first token has nothing before it and is never predicted. ``scored`` keeps the sample's scores at the
    predictions. Raises ValueError for a weight that is not finite.
    """
    if not np.all(np.isfinite(sample.weights)):
        raise ValueError(f"token sample {sample.id!r}: a weight is not finite")
    targets = np.flatnonzero(sample.weights[1:]) + 1
    if not len(targets):
        return None
    ids = np.asarray(sample.ids, dtype=np.int64)
    return TrainRow(
        inputs=ids[: targets[-1]],
        positions=(targets - 1).astype(np.int64),
        labels=ids[targets],
        weights=np.asarray(sample.weights[targets], dtype=np.float32),
        scores={
            name: np.asarray(values[targets], dtype=np.float32)
            for name, values in (sample.scores if scored else {}).items()
        },
    )


def step_count(samples: int, batch_size: int, epochs: int, max_steps: int | None) -> int:
    """Optimiser steps of the whole training: ``max_steps`` ends it early and never prolongs it."""
    planned = epochs * -(-samples // batch_size)
    return planned if max_steps is None else min(planned, max_steps)


def step_order(samples: int, batch_size: int, steps: int, seed: int) -> Iterator[list[int]]:
    """The samples of each optimiser step: a new seeded order every epoch, the last step of it as large as remains."""
    epoch = 0
    while steps > 0:
        order = list(range(samples))
        random.Random(f"order {seed} {epoch}").shuffle(order)
        for start in range(0, samples, batch_size):
            if steps == 0:
                return
            yield order[start : start + batch_size]
            steps -= 1
        epoch += 1


def split_rows(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Rows of one step grouped into forward passes of at most ``token_budget`` tokens with their padding.

    Rows of like length share a pass. A row longer than the budget goes alone. A row is in exactly one group.
    """
    groups: list[list[int]] = []
    longest = 0
    for row in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if groups and (len(groups[-1]) + 1) * longest <= token_budget:
            groups[-1].append(row)
        else:
            groups.append([row])
            longest = lengths[row]
    return groups


def pass_budget(rows: Sequence[TrainRow], budget: int, norm: LossNorm, processes: int) -> int:
    """Tokens of one forward pass: ``budget``, or fewer, so that each process has about one of a step's passes.

    With a mean over passes (``microbatch``), which their number changes, it stays ``budget``.
    """
    if processes == 1 or norm == "microbatch":
        return budget
    lengths = [len(row.inputs) for row in rows]
    return min(budget, max(*lengths, -(-sum(lengths) // processes), 1))


def share_out(sizes: Sequence[int], processes: int) -> list[int]:
    """The process of each forward pass of so many tokens: the largest goes first, each to who has least."""
    loads = [0] * processes
    owners = [0] * len(sizes)
    for place in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        owners[place] = min(range(processes), key=loads.__getitem__)
        loads[owners[place]] += sizes[place]
    return owners


def coefficients(
    groups: Sequence[Sequence[FloatArray]],
    norm: LossNorm,
    factors: Sequence[Sequence[FloatArray]] | None = None,
    mean_over: MeanOver = "given",
) -> list[list[FloatArray]]:
    """The factor of every per-token loss in the loss of one optimiser step; same nesting and shapes as ``groups``.

    ``groups`` holds, by micro-batch and row, the weights w of the predictions that count. With l the losses:

    - ``tokens``: sum(w l) / sum(w) over the step, whatever the split;
    - ``samples``: the same with every weight divided by its row's number of predictions, so that long responses
      count no more than short ones, and a sample's own weight still counts;
    - ``microbatch``: the mean over micro-batches of each one's sum(w l) / sum(w), which depends on the split.

    ``factors`` are an online loss's weights v: every sum(w l) above is then sum(w v l). The divisors stay sums of w
    where ``mean_over`` is ``given``, so that a scale of v scales the loss, and are sums of w v where it is
    ``weighed``. Where all of those are 0, so are the coefficients.
    """
    given = [[np.asarray(w, dtype=np.float64) for w in group] for group in groups]
    if norm == "samples":
        given = [[w / len(w) for w in group] for group in given]
    weighed = given
    if factors is not None:
        weighed = [
            [w * v for w, v in zip(group, part, strict=True)]
            for group, part in zip(given, factors, strict=True)
        ]
    means = weighed if mean_over == "weighed" else given
    sums = [sum(float(w.sum()) for w in group) for group in means]
    if norm == "microbatch":
        divisors = [total * len(groups) for total in sums]
    else:
        divisors = [sum(sums)] * len(groups)
    return [
        [(w / (divisor or 1.0)).astype(np.float32) for w in group]
        for group, divisor in zip(weighed, divisors, strict=True)
    ]


def micro_batches(rows: Sequence[TrainRow], token_budget: int, norm: LossNorm) -> list[MicroBatch]:
    """The forward passes of one optimiser step over ``rows``."""
    groups = [
        [rows[i] for i in group]
        for group in split_rows([len(row.inputs) for row in rows], token_budget)
    ]
    factors = coefficients([[row.weights for row in group] for group in groups], norm)
    return [_pad(group, factor) for group, factor in zip(groups, factors, strict=True)]


def cached_scores(batches: Sequence[MicroBatch]) -> dict[str, FloatArray]:
    """The scores of one step's predictions, by name, in the order of the batches: [n], NaN where a row has none."""
    rows = [row for batch in batches for row in batch.rows]
    blank = [np.full(len(row.labels), np.nan, dtype=np.float32) for row in rows]
    return {
        name: np.concatenate(
            [row.scores.get(name, empty) for row, empty in zip(rows, blank, strict=True)]
        )
        for name in sorted({name for row in rows for name in row.scores})
    }


def weighed_batches(
    batches: Sequence[MicroBatch], factors: FloatArray, norm: LossNorm, mean_over: MeanOver
) -> list[MicroBatch]:
    """The same forward passes with an online loss's ``factors`` [n] in their coefficients.

    ``factors`` stand in the order of the batches. Predictions whose coefficient comes out as 0 leave their batch.
    """
    ends = accumulate(len(row.labels) for batch in batches for row in batch.rows)
    parts = iter(np.split(factors, list(ends)[:-1]))
    found = coefficients(
        [[row.weights for row in batch.rows] for batch in batches],
        norm,
        [[next(parts) for _ in batch.rows] for batch in batches],
        mean_over,
    )
    out = []
    for batch, rows in zip(batches, found, strict=True):
        factor = np.concatenate(rows)
        kept = factor != 0
        out.append(
            replace(
                batch,
                positions=batch.positions[kept],
                labels=batch.labels[kept],
                coefficients=factor[kept],
            )
        )
    return out


def _pad(rows: Sequence[TrainRow], factors: Sequence[FloatArray]) -> MicroBatch:
    # Padding stands on the right, where no causal model lets it reach a prediction: its id is of no account.
    length = max(len(row.inputs) for row in rows)
    inputs = np.zeros((len(rows), length), dtype=np.int64)
    for i, row in enumerate(rows):
        inputs[i, : len(row.inputs)] = row.inputs
    return MicroBatch(
        inputs=inputs,
        positions=np.concatenate([row.positions + i * length for i, row in enumerate(rows)]),
        labels=np.concatenate([row.labels for row in rows]),
        coefficients=np.concatenate(list(factors)),
        rows=tuple(rows),
    )


_COLUMNS: Final = {"inputs": np.int64, "positions": np.int64, "labels": np.int64, "weights": np.float32}  # fmt: skip


def rows_to_arrays(rows: Sequence[TrainRow]) -> dict[str, Any]:
    """Rows as flat arrays: ``lengths`` int64 [rows, 2] of inputs and predictions, then each column end to end.

    Scores are the columns ``score NAME``, NaN where a row has none of that name.
    """
    names = sorted({name for row in rows for name in row.scores})
    blank = [np.full(len(row.labels), np.nan, dtype=np.float32) for row in rows]
    pairs = list(zip(rows, blank, strict=True))
    return {
        "lengths": np.array([(len(row.inputs), len(row.labels)) for row in rows], dtype=np.int64),
        **{
            name: np.concatenate([np.asarray(getattr(row, name), dtype=kind) for row in rows])
            for name, kind in _COLUMNS.items()
        },
        **{
            f"score {name}": np.concatenate([row.scores.get(name, empty) for row, empty in pairs])
            for name in names
        },
    }


def rows_from_arrays(arrays: Mapping[str, Any]) -> list[TrainRow]:
    """The inverse of ``rows_to_arrays``."""
    lengths = arrays["lengths"]
    ends = lengths.cumsum(0)[:-1]
    parts = {
        name: np.split(column, ends[:, 0 if name == "inputs" else 1])
        for name, column in arrays.items()
        if name != "lengths"
    }
    scores = {
        name.removeprefix("score "): parts.pop(name) for name in [*parts] if name not in _COLUMNS
    }
    return [
        TrainRow(
            **{name: column[place] for name, column in parts.items()},
            scores={name: column[place] for name, column in scores.items()},
        )
        for place in range(len(lengths))
    ]
