"""What the processes of a launch share out and send one another, as plain numbers in flat arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nfilter_hf.lora.data import TrainRow
from nfilter_hf.lora_crew import Stats

if TYPE_CHECKING:
    from torch import Tensor

_COLUMNS = (("inputs", 0, np.int64), ("positions", 1, np.int64), ("labels", 1, np.int64), ("weights", 1, np.float32))  # fmt: skip
"""What is sent of a row, which of its two lengths it has, and its type."""


def share_out(sizes: Sequence[int], ranks: int) -> list[int]:
    """The owner of each batch: the largest goes first, each to who has least; the first process gets the first."""
    loads = [0] * ranks
    owners = [0] * len(sizes)
    for place in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        owners[place] = min(range(ranks), key=loads.__getitem__)
        loads[owners[place]] += sizes[place]
    return owners


def in_order(
    stats: Stats, tables: Sequence[Tensor], counts: Sequence[int], owners: Sequence[int]
) -> Stats:
    """Tables [k, n] of statistics, one a process, as statistics of all batches in the order of the batches."""
    import torch

    taken = [0] * len(tables)
    parts = []
    for count, owner in zip(counts, owners, strict=True):
        parts.append(tables[owner][:, taken[owner] : taken[owner] + count])
        taken[owner] += count
    whole = torch.cat(parts, dim=1)
    return {
        name: whole[place].to(stats[name].device, stats[name].dtype)
        for place, name in enumerate(sorted(stats))
    }


def packed(rows: Sequence[TrainRow]) -> list[Tensor]:
    """Rows as five arrays: the lengths [rows, 2] of inputs and predictions, then the columns end to end."""
    import torch

    lengths = np.array([(len(row.inputs), len(row.labels)) for row in rows], dtype=np.int64)
    columns = [
        np.concatenate([np.asarray(getattr(row, name), dtype=kind) for row in rows])
        for name, _, kind in _COLUMNS
    ]
    return [torch.from_numpy(array) for array in (lengths, *columns)]


def blank(lengths: Tensor) -> list[Tensor]:
    """Columns of the sizes that ``lengths`` asks for, to be received into."""
    import torch

    sums = lengths.numpy().sum(0)
    return [torch.from_numpy(np.empty(sums[which], dtype=kind)) for _, which, kind in _COLUMNS]


def unpacked(lengths: Tensor, columns: Sequence[Tensor]) -> list[TrainRow]:
    """The inverse of ``packed``; scores did not travel."""
    ends = lengths.numpy().cumsum(0)[:-1]
    parts = [
        np.split(column.numpy(), ends[:, which])
        for column, (_, which, _) in zip(columns, _COLUMNS, strict=True)
    ]
    return [TrainRow(*row) for row in zip(*parts, strict=True)]


def cut(flat: Tensor, parameters: Sequence[Any]) -> list[Tensor]:
    """Views of ``flat``, one of each parameter's shape, in their order."""
    import torch

    parts: Sequence[Tensor] = torch.split(flat, [p.numel() for p in parameters])
    return [part.view(p.shape) for part, p in zip(parts, parameters, strict=True)]
