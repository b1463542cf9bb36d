"""Choose the next token: greedy, or sampled from the nucleus with random numbers of each request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nfilter import Sampling

if TYPE_CHECKING:
    from torch import Tensor

_MASK = 2**64 - 1


def uniforms(sampling: Sampling, draw: int) -> Iterator[float]:
    """Yield numbers in [0, 1), one per step, that depend only on the request's seed and draw."""
    source = np.random.Generator(np.random.PCG64([sampling.seed & _MASK, draw & _MASK]))
    while True:
        yield float(source.random())


def choose(logits: Tensor, samplings: Sequence[Sampling], numbers: Sequence[float]) -> Tensor:
    """Return the next token of each row, int64 [n], from logits float32 [n, vocabulary] and one number in [0, 1) per row.

    Sampling inverts the distribution function in vocabulary order, so rounding differences between batches change a draw only if
    the number is on an edge. The nucleus (Holtzman et al. 2020) is the smallest set of most probable tokens whose mass reaches
    ``top_p``, with all ties at its edge.
    """
    import torch

    chosen = logits.argmax(-1)
    rows = [row for row, sampling in enumerate(samplings) if sampling.temperature > 0]
    if not rows:
        return chosen
    # MPS has no float64, and a cumulative sum over a large vocabulary needs it.
    device = logits.device if logits.device.type != "mps" else torch.device("cpu")
    picked = logits[rows].to(device).double()
    heat = torch.tensor([samplings[row].temperature for row in rows], device=device).double()
    mass = (picked / heat.unsqueeze(1)).softmax(-1)
    if any(samplings[row].top_p < 1 for row in rows):
        share = torch.tensor([samplings[row].top_p for row in rows], device=device).double()
        ranked = mass.sort(dim=-1, descending=True).values
        inside = ranked.cumsum(-1) - ranked < share.unsqueeze(1)
        inside[:, 0] = True
        least = ranked.masked_fill(~inside, 2.0).amin(-1, keepdim=True)
        mass = mass.masked_fill(mass < least, 0.0)
    edges = mass.cumsum(-1)
    target = torch.tensor([numbers[row] for row in rows], device=device).double() * edges[:, -1]
    tokens = torch.searchsorted(edges, target.unsqueeze(1), right=True).squeeze(1)
    # Rounding may put a target on the last edge, after every token with mass.
    last = (mass > 0).long().cumsum(-1).argmax(-1)
    chosen[rows] = torch.minimum(tokens, last).to(chosen.device)
    return chosen
