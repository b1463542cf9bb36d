"""Output heads and token losses:  negative log-likelihoods, from logits that exist a chunk at a time.

A vocabulary of 128 k makes the logits of one long batch larger than the model. The output head therefore runs
only where a prediction counts, and over at most ``chunk`` predictions at once, forward and backward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

Head: TypeAlias = "Callable[[Tensor], Tensor]"
"""Hidden states [n, d] to logits [n, vocabulary]."""
Losses: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"
"""Hidden states [n, d] and the labels [n] that they predict to -log p(label), float32 [n]."""

# Logits held at once: on a CPU about what its caches hold, elsewhere enough to keep the device busy.
ON_CPU = 2**22
ELSEWHERE = 2**25
# Rows and columns of logits in one block of ``block_losses``: 2 MiB, which one core's own cache holds.
_ROWS, _COLUMNS = 512, 1024

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def output_head(module: Any) -> Head:
    """The function from the last hidden states to the logits of a transformers causal LM.

    Scaling and soft caps that an architecture puts behind its output matrix are part of it.
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
    """The output matrix [vocabulary, d] where the head of a causal LM is that product alone, and is not trained.

    None as for ``plain_head``, or where a bias is trained: the head's gradient is then autograd's.
    """
    matrix = plain_head(module)
    if matrix is None or any(parameter.requires_grad for parameter in matrix.parameters()):
        return None
    weight: Tensor = matrix.weight
    return weight


def plain_head(module: Any) -> Any:
    """The output layer of a causal LM, a ``torch.nn.Linear``, where the head is that layer alone.

    None where anything stands behind it or hooks into it, or where its weights are packed in fewer bits.
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
    """Predictions a chunk, so that its logits stay within 16 MiB in float32 on a CPU, 128 MiB on other devices."""
    return max(1, (ON_CPU if device == "cpu" else ELSEWHERE) // max(1, vocabulary))


def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p(label) in float32: logits [n, vocabulary] of any float type and labels [n] to losses [n]."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(logits.float(), labels, reduction="none")


def losses_of(module: Any, head: Head) -> Losses:
    """How the losses of given tokens are computed fastest, without gradients, for the ``head`` of ``module``."""
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
    """-log p(label) in float32 from states [n, d] and a head that is ``matrix`` [vocabulary, d] alone, on a CPU.

    Logits exist a block at a time, of some rows and some of the vocabulary, and never leave the cache: reading and
    writing them is what costs there beside the product. The sum over the vocabulary keeps a running maximum (arXiv
    1805.02867, Algorithm 3).
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
    """For every chunk of predictions: where it stands, its logits [m, vocabulary] and its labels [m].

    The one place that makes logits. An online loss reads its statistics from here, without gradients, before the
    weights of the batch are known; the backward pass then runs over the same chunks.
    """
    for start in range(0, len(labels), chunk):
        where = slice(start, start + chunk)
        yield where, head(hidden[where]), labels[where]
