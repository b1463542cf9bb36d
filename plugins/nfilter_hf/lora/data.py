"""The batches of training: the predictions, their order, their micro-batches and their coefficients in the loss.

All of it is numpy and computed before a forward pass, so the loss of an optimiser step does not depend on its split
into micro-batches.
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
    """One sample for training: ``inputs`` [T-1], and n predictions with a weight other than 0.

    ``positions`` [n] index ``inputs``: the hidden state there predicts ``labels`` [n] with ``weights`` [n] in the
    loss. ``inputs`` ends at the last prediction. ``scores`` has the sample's scores at the same predictions, each
    [n]; it is empty if training reads no scores.
    """

    inputs: IntArray
    positions: IntArray
    labels: IntArray
    weights: FloatArray
    scores: Mapping[str, FloatArray] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One forward pass over B rows padded on the right to L: ``inputs`` [B, L], flat ``positions`` [n] into B*L.

    ``labels`` and ``coefficients`` have shape [n]. The loss of an optimiser step is the sum of
    ``coefficients . losses`` over its micro-batches. ``rows`` are its rows in order; n is the sum of their predictions.
    ``penalties`` [n] are the factors of an online loss's penalty; None without one.
    """

    inputs: IntArray
    positions: IntArray
    labels: IntArray
    coefficients: FloatArray
    rows: tuple[TrainRow, ...]
    penalties: FloatArray | None = None


def training_row(sample: TokenSample, *, scored: bool = False) -> TrainRow | None:
    """Return the training row of ``sample``, truncated after its last weighted token; None without such a token.

    The first token is never predicted. ``scored`` keeps the sample's scores at the predictions.

    Raises:
        ValueError: a weight is not finite.
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
    """Return the optimiser steps of a training, at most ``max_steps``."""
    planned = epochs * -(-samples // batch_size)
    return planned if max_steps is None else min(planned, max_steps)


def step_order(samples: int, batch_size: int, steps: int, seed: int) -> Iterator[list[int]]:
    """Yield the indices of the samples of each optimiser step: a new seeded order per epoch, whose last step is shorter."""
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
    """Group the rows of one step into forward passes of at most ``token_budget`` tokens, padding included.

    Rows of similar length share a pass. A row longer than the budget has its own. Each row is in exactly one group.
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
    """Return the tokens per forward pass: at most ``budget``, such that each process has about one pass per step.

    With a mean over passes (``microbatch``), which depends on their number, it is ``budget``.
    """
    if processes == 1 or norm == "microbatch":
        return budget
    lengths = [len(row.inputs) for row in rows]
    return min(budget, max(*lengths, -(-sum(lengths) // processes), 1))


def share_out(sizes: Sequence[int], processes: int) -> list[int]:
    """Return the rank for each forward pass, given their tokens: largest first, each to the least loaded rank."""
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
    """Return the factor of each token's loss in the loss of one optimiser step, in the shape of ``groups``.

    ``groups`` has, by micro-batch and row, the weights w [n] of the predictions. With losses l:

    - ``tokens``: sum(w l) / sum(w) over the step, independent of the split;
    - ``samples``: the same with each weight divided by the number of predictions of its row, so that long and short
      responses have equal weight; the weight of a sample still applies;
    - ``microbatch``: the mean over micro-batches of sum(w l) / sum(w), which depends on the split.

    ``factors`` are the weights v of an online loss: each sum(w l) above is then sum(w v l). The divisors are sums of
    w if ``mean_over`` is ``given``, so that a scale of v scales the loss, and sums of w v if it is ``weighed``. If
    all divisors are 0, all coefficients are 0.
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
    """Return the forward passes of one optimiser step over ``rows``."""
    groups = [
        [rows[i] for i in group]
        for group in split_rows([len(row.inputs) for row in rows], token_budget)
    ]
    factors = coefficients([[row.weights for row in group] for group in groups], norm)
    return [_pad(group, factor) for group, factor in zip(groups, factors, strict=True)]


def cached_scores(batches: Sequence[MicroBatch]) -> dict[str, FloatArray]:
    """Return the scores of one step's predictions, by name, in the order of the batches: [n], NaN if a row has none."""
    rows = [row for batch in batches for row in batch.rows]
    blank = [np.full(len(row.labels), np.nan, dtype=np.float32) for row in rows]
    return {
        name: np.concatenate(
            [row.scores.get(name, empty) for row, empty in zip(rows, blank, strict=True)]
        )
        for name in sorted({name for row in rows for name in row.scores})
    }


def weighed_batches(
    batches: Sequence[MicroBatch],
    factors: FloatArray,
    norm: LossNorm,
    mean_over: MeanOver,
    *,
    penalised: bool = False,
) -> list[MicroBatch]:
    """Return the same forward passes with the ``factors`` [n] of an online loss in their coefficients.

    ``factors`` are in the order of the batches. Predictions with a coefficient of 0 are removed, unless they are
    ``penalised``: the factors of the penalty are the coefficients of the batches, a mean over the weights as given.
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
        kept = (factor != 0) | penalised
        out.append(
            replace(
                batch,
                positions=batch.positions[kept],
                labels=batch.labels[kept],
                coefficients=factor[kept],
                penalties=batch.coefficients if penalised else None,
            )
        )
    return out


def _pad(rows: Sequence[TrainRow], factors: Sequence[FloatArray]) -> MicroBatch:
    # Padding on the right does not affect the predictions of a causal model, so its id is arbitrary.
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
    """Return rows as flat arrays: ``lengths`` int64 [rows, 2] of inputs and predictions, and each column concatenated.

    Scores are the columns ``score NAME``, NaN if a row has no score of that name.
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
    """Return the rows from which ``rows_to_arrays`` made ``arrays``."""
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
