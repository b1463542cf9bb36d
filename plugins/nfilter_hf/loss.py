"""Output heads and token losses (negative log-likelihoods), with logits computed in chunks.

With a vocabulary of 128 k, the logits of one long batch are larger than the model. The output head therefore runs only for
predictions with a weight, and for at most ``chunk`` predictions at once, forward and backward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

Head: TypeAlias = "Callable[[Tensor], Tensor]"
"""From hidden states [n, d] to logits [n, vocabulary]."""
Losses: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"
"""From hidden states [n, d] and the labels [n] that they predict to -log p(label), float32 [n]."""

# Maximum number of logits at once: on a CPU about the size of its caches, elsewhere enough to keep the device busy.
ON_CPU = 2**22
ELSEWHERE = 2**25
# Rows and columns of logits in one block of ``block_losses``: 2 MiB, the size of one core's cache.
_ROWS, _COLUMNS = 512, 1024

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def output_head(module: Any) -> Head:
    """Return the function from the last hidden states to the logits of a transformers causal LM.

    It includes scaling and soft caps that an architecture applies after its output matrix.
    """
    import torch

    matrix = module.get_output_embeddings()
    config = module.config.get_text_config()
    multiply = float(getattr(config, "logit_scale", None) or 1.0)
    divide = float(getattr(config, "logits_scaling", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)

    def head(hidden: Tensor) -> Tensor:
        logits: Tensor = matrix(hidden)
        if multiply != 1.0 or divide != 1.0:
            logits = logits * (multiply / divide)
        if cap:
            logits = torch.tanh(logits / cap) * cap
        return logits

    return head


def frozen_matrix(module: Any) -> Tensor | None:
    """Return the output matrix [vocabulary, d] of a causal LM whose head is only this product and is not trained.

    None in the cases of ``plain_head``, or if a parameter is trained; autograd then computes the head's gradient.
    """
    matrix = plain_head(module)
    if matrix is None or any(parameter.requires_grad for parameter in matrix.parameters()):
        return None
    weight: Tensor = matrix.weight
    return weight


def plain_head(module: Any) -> Any:
    """Return the output layer of a causal LM, a ``torch.nn.Linear``, if the head is only this layer.

    None if something follows it, if it has hooks, or if its weights are quantised.
    """
    import torch

    matrix = module.get_output_embeddings()
    config = module.config.get_text_config()
    more = ("logit_scale", "logits_scaling", "final_logit_softcapping")
    if (
        type(matrix) is not torch.nn.Linear
        or any(getattr(config, name, None) not in (None, 0, 1.0) for name in more)
        or any(vars(matrix).get(hooks) for hooks in ("forward", *_HOOKS))
    ):
        return None
    return matrix if matrix.weight.is_floating_point() and not matrix.weight.is_meta else None


def chunk_size(vocabulary: int, device: str = "cpu") -> int:
    """Return the number of predictions per chunk: its float32 logits take at most 16 MiB on a CPU, 128 MiB elsewhere."""
    return max(1, (ON_CPU if device == "cpu" else ELSEWHERE) // max(1, vocabulary))


def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return -log p(label), float32 [n], of logits [n, vocabulary] of any float type and labels [n]."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(logits.float(), labels, reduction="none")


def losses_of(module: Any, head: Head) -> Losses:
    """Return the fastest function for losses without gradients with the ``head`` of ``module``."""
    import torch

    device = next(module.parameters()).device.type
    layer = plain_head(module)
    if (
        device == "cpu"
        and layer is not None
        and layer.bias is None
        and len(layer.weight) > _COLUMNS
    ):
        return lambda hidden, labels: block_losses(hidden, labels, layer.weight)
    vocabulary = int(module.config.get_text_config().vocab_size)
    chunk = chunk_size(vocabulary, device)

    def chunked(hidden: Tensor, labels: Tensor) -> Tensor:
        chunks = logit_chunks(head, hidden, labels, chunk)
        return torch.cat([token_losses(logits, wanted) for _, logits, wanted in chunks])

    return chunked


def block_losses(hidden: Tensor, labels: Tensor, matrix: Tensor) -> Tensor:
    """Return -log p(label), float32 [n], from states [n, d] and a head that is only ``matrix`` [vocabulary, d], on a CPU.

    Logits are computed in blocks of rows and vocabulary that fit in the cache, because reading and writing them costs most
    after the product. The sum over the vocabulary uses a running maximum (arXiv 1805.02867, Algorithm 3).
    """
    import torch

    losses = torch.empty(len(labels), dtype=torch.float32)
    for start in range(0, len(labels), _ROWS):
        states, wanted = hidden[start : start + _ROWS], labels[start : start + _ROWS]
        largest = torch.full((len(wanted), 1), -torch.inf)
        total = torch.zeros(len(wanted), 1)
        target = torch.empty(len(wanted))
        for left in range(0, len(matrix), _COLUMNS):
            block = matrix[left : left + _COLUMNS]
            logits = (states @ block.T).float()
            at = wanted - left
            rows = ((at >= 0) & (at < len(block))).nonzero()[:, 0]
            target[rows] = logits[rows, at[rows]]
            before, largest = largest, torch.maximum(largest, logits.amax(-1, keepdim=True))
            total *= (before - largest).exp_()
            total += logits.sub_(largest).exp_().sum(-1, keepdim=True)
        losses[start : start + _ROWS] = (total.log_() + largest)[:, 0] - target
    return losses


def logit_chunks(
    head: Head, hidden: Tensor, labels: Tensor, chunk: int
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield for every chunk of predictions its slice, its logits [m, vocabulary] and its labels [m].

    All logits of training come from here: an online loss computes its statistics from them without gradients, before the
    weights of the batch are known; the backward pass then uses the same chunks.
    """
    for start in range(0, len(labels), chunk):
        where = slice(start, start + chunk)
        yield where, head(hidden[where]), labels[where]
