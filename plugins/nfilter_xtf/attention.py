"""How much attention each token draws, added up layer by layer while the model runs.

No layer's weights outlive that layer: a hook reduces them to one number a token at once. Samples go through one at a
time, so that neither padding nor the other samples of a batch can change a score.
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
) -> list[FloatArray]:
    """One float32 [T] a sample, NaN outside the response; ``module`` is a causal model of transformers.

    With A the attention of query i to key j, averaged over layers and heads, and positions from 0:

    - ``default``: the mean over i > j of (i + 1) A_ij, which is 1 where attention is uniform; NaN at the last token;
    - ``paper``: the mean over i of A_ij (the score of Eq. 5);
    - ``official``: the mean over *keys*, as published: 1 / T but for rounding.

    ``advance`` is told how many tokens were read. The module is given back as it was, also on errors.

    Raises:
        ModelError: where the model yields no attention weights, or a sample does not fit it.
    """
    reduce = {"default": _drawn_later, "paper": _drawn, "official": _over_keys}[preset]
    out = []
    with _eager(module):
        for sample in samples:
            scores = np.full(len(sample.ids), np.nan, dtype=np.float32)
            if sample.response.any():
                scores[sample.response] = _one(module, sample, reduce)[sample.response]
            out.append(scores)
            if advance is not None:
                advance(len(sample.ids))
    return out


def _one(module: Any, sample: TokenSample, reduce: Reduce) -> Any:
    import torch

    _check_length(module, sample)
    device = next(module.parameters()).device
    ids = torch.from_numpy(np.array(sample.ids, dtype=np.int64))[None].to(device)
    total: list[Any] = []
    with _listening(module, ids.shape[1], lambda weights: total.append(reduce(weights))):
        try:
            with torch.no_grad():
                module.base_model(input_ids=ids, use_cache=False)
        except torch.OutOfMemoryError as error:
            raise ModelError(
                f"sample {sample.id!r}: the attention of {ids.shape[1]} tokens does not fit in memory; lower "
                "encode.max_length, or set device: cpu for this model"
            ) from error
    if not total:
        raise ModelError(_none_given(module))
    return np.mean([part.cpu().double().numpy() for part in total], axis=0)


def _drawn_later(weights: Tensor) -> Tensor:
    """[H, T, T] to [T]: the mean over later queries i of (i + 1) A_ij; NaN at the last, which has none."""
    import torch

    size = weights.shape[-1]
    mean = weights.float().mean(0).tril(-1)
    rank = torch.arange(1, size + 1, device=mean.device, dtype=mean.dtype)
    sums = (mean * rank[:, None]).sum(0)
    # 0 / 0 at the last token.
    return sums / (size - rank)


def _drawn(weights: Tensor) -> Tensor:
    return weights.float().mean(0).mean(0)


def _over_keys(weights: Tensor) -> Tensor:
    return weights.float().mean(0).mean(1)


@contextmanager
def _listening(module: Any, size: int, hear: Callable[[Tensor], None]) -> Iterator[None]:
    """Give ``hear`` the weights [H, T, T] of each attention module that runs, as soon as it has run."""

    def hook(part: Any, inputs: Any, output: Any) -> None:
        del inputs
        found = [x for x in output if _is_weights(x, size)] if isinstance(output, tuple) else []
        if not found:
            raise ModelError(
                f"{type(part).__name__} yields no attention weights with eager attention; name another model for "
                "xtf.reasoning, such as a Llama, Qwen or GPT-2 kind, or leave the stage out"
            )
        hear(found[0][0])

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
    """The innermost modules that are called attention: some architectures wrap one in another."""
    named = [part for part in module.modules() if type(part).__name__.endswith("Attention")]
    inner = {id(part) for part in named}
    return [
        part for part in named if not any(id(p) in inner and p is not part for p in part.modules())
    ]


@contextmanager
def _eager(module: Any) -> Iterator[None]:
    """Attention that is worked out in the open, for as long as the scope is open; other kinds keep no weights."""
    if not hasattr(module, "set_attn_implementation"):
        raise ModelError(_none_given(module))
    configs = {id(part.config): part.config for part in module.modules() if hasattr(part, "config")}
    saved = [(config, dict(vars(config))) for config in configs.values()]
    training = [part for part in module.modules() if part.training]
    try:
        module.eval()
        try:
            module.set_attn_implementation("eager")
        except (ValueError, ImportError) as error:
            raise ModelError(_none_given(module)) from error
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


def _none_given(module: Any) -> str:
    return (
        f"{type(module).__name__} yields no attention weights: it has no attention that can be worked out eagerly; name "
        "another model for xtf.reasoning, such as a Llama, Qwen or GPT-2 kind, or leave the stage out"
    )
