"""Attention that each token receives, accumulated layer by layer during the forward pass.

A hook reduces each layer's weights to one number per token at once, so only one layer's weights are in memory.
Samples are scored one at a time, so neither padding nor other samples of a batch can change a score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from nfilter import FloatArray, ModelError, TokenSample
from nfilter_xtf.presets import Preset

if TYPE_CHECKING:
    from torch import Tensor

Reduce: TypeAlias = "Callable[[Tensor], Tensor]"


def importances(
    module: Any,
    samples: Sequence[TokenSample],
    preset: Preset,
    advance: Callable[[int], None] | None = None,
) -> Iterator[FloatArray]:
    """Yield float32 [T] per sample, NaN outside the response; ``module`` is a causal model of transformers.

    With A_ij the attention of query i to key j, averaged over layers and heads, and positions from 0:

    - ``default``: the mean over i > j of (i + 1) A_ij, which is 1 for uniform attention; NaN at the last token;
    - ``paper``: the mean over i of A_ij (the score of Eq. 5);
    - ``official``: the mean over *keys* of the first layer's attention, as in the published code: 1 / T up to rounding.

    ``advance`` is called with each sample's number of tokens. The module's state is restored, also on errors.

    Raises:
        ModelError: the model yields no attention weights, or a sample exceeds its context or memory.
    """
    reduce = {"default": _mean_from_later, "paper": _mean_received, "official": _mean_over_keys}[
        preset
    ]
    with _eager_attention(module):
        for sample in samples:
            scores = np.full(len(sample.ids), np.nan, dtype=np.float32)
            if sample.response.any():
                layers = _score_layers(module, sample, reduce)
                used = layers[:1] if preset == "official" else layers
                scores[sample.response] = np.mean(used, axis=0)[sample.response]
            if advance is not None:
                advance(len(sample.ids))
            yield scores


def _score_layers(module: Any, sample: TokenSample, reduce: Reduce) -> list[Any]:
    """Return the reduced attention of each layer ([T], float64), the first layer first."""
    import torch

    _check_length(module, sample)
    device = next(module.parameters()).device
    ids = torch.from_numpy(np.array(sample.ids, dtype=np.int64))[None].to(device)
    total: list[Any] = []
    with _attention_hooks(module, ids.shape[1], lambda weights: total.append(reduce(weights))):
        try:
            with torch.no_grad():
                module.base_model(input_ids=ids, use_cache=False)
        except torch.OutOfMemoryError as error:
            raise ModelError(
                f"sample {sample.id!r}: the attention of {ids.shape[1]} tokens does not fit in memory; lower "
                "encode.max_length, or set device: cpu for this model"
            ) from error
    if not total:
        raise ModelError(_no_weights_message(module))
    return [part.cpu().double().numpy() for part in total]


def _mean_from_later(weights: Tensor) -> Tensor:
    """Reduce [H, T, T] to [T]: the mean over later queries i of (i + 1) A_ij; NaN at the last token."""
    import torch

    size = weights.shape[-1]
    mean = weights.float().mean(0).tril(-1)
    rank = torch.arange(1, size + 1, device=mean.device, dtype=mean.dtype)
    sums = (mean * rank[:, None]).sum(0)
    # 0 / 0 at the last token.
    return sums / (size - rank)


def _mean_received(weights: Tensor) -> Tensor:
    return weights.float().mean(0).mean(0)


def _mean_over_keys(weights: Tensor) -> Tensor:
    return weights.float().mean(0).mean(1)


@contextmanager
def _attention_hooks(
    module: Any, size: int, on_weights: Callable[[Tensor], None]
) -> Iterator[None]:
    """Call ``on_weights`` with the weights [H, T, T] of each attention module right after it runs."""

    def hook(part: Any, inputs: Any, output: Any) -> None:
        del inputs
        weights = [x for x in output if _is_weights(x, size)] if isinstance(output, tuple) else []
        if not weights:
            raise ModelError(
                f"{type(part).__name__} yields no attention weights with eager attention; name another model for "
                "xtf.reasoning, such as a Llama, Qwen or GPT-2 kind, or leave the stage out"
            )
        on_weights(weights[0][0])

    handles = [part.register_forward_hook(hook) for part in _attention_modules(module)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_weights(x: Any, size: int) -> bool:
    shape = tuple(getattr(x, "shape", ()))
    return len(shape) == 4 and shape[0] == 1 and shape[2:] == (size, size) and x.is_floating_point()


def _attention_modules(module: Any) -> list[Any]:
    """Return the innermost modules named ``*Attention``: some architectures nest them."""
    named = [part for part in module.modules() if type(part).__name__.endswith("Attention")]
    inner = {id(part) for part in named}
    return [
        part for part in named if not any(id(p) in inner and p is not part for p in part.modules())
    ]


@contextmanager
def _eager_attention(module: Any) -> Iterator[None]:
    """Use eager attention within the scope, as other implementations return no weights; restore the module afterwards."""
    if not hasattr(module, "set_attn_implementation"):
        raise ModelError(_no_weights_message(module))
    configs = {id(part.config): part.config for part in module.modules() if hasattr(part, "config")}
    saved = [(config, dict(vars(config))) for config in configs.values()]
    training = [part for part in module.modules() if part.training]
    try:
        module.eval()
        try:
            module.set_attn_implementation("eager")
        except (ValueError, ImportError) as error:
            raise ModelError(_no_weights_message(module)) from error
        yield
    finally:
        for config, values in saved:
            vars(config).clear()
            vars(config).update(values)
        for part in training:
            part.training = True


def _check_length(module: Any, sample: TokenSample) -> None:
    limit = getattr(module.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(limit, int) and 0 < limit < len(sample.ids):
        raise ModelError(
            f"sample {sample.id!r} has {len(sample.ids)} tokens, more than the model's context of {limit}: set "
            f"encode.max_length to {limit} or less"
        )


def _no_weights_message(module: Any) -> str:
    return (
        f"{type(module).__name__} yields no attention weights: it has no eager attention implementation; name "
        "another model for xtf.reasoning, such as a Llama, Qwen or GPT-2 kind, or leave the stage out"
    )
