"""Read the attention weights of a model, layer by layer during one forward pass per sample.

A hook reduces the weights of each layer at once, so that one layer's weights are in memory. Samples are read one at a time:
neither padding nor other samples of a batch can change a value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from nfilter import FloatArray, ModelError, TokenSample

Reduce = Callable[[Any, TokenSample], Any]


def read_attention(
    module: Any, samples: Sequence[TokenSample], reduce: Reduce, layers: slice = slice(None)
) -> Iterator[list[FloatArray]]:
    """Yield what ``nfilter.Attends`` says; ``module`` is a causal model of transformers in eval mode.

    The attention implementation is restored at the end, also after an error.

    Raises:
        ModelError: if the model yields no attention weights, or a sample exceeds its context or memory.
    """
    with _eager_attention(module):
        for sample in samples:
            yield _reduced_layers(module, sample, reduce, layers)


def _reduced_layers(
    module: Any, sample: TokenSample, reduce: Reduce, layers: slice
) -> list[FloatArray]:
    import torch

    check_length(module, sample)
    device = next(module.parameters()).device
    ids = torch.from_numpy(np.array(sample.ids, dtype=np.int64))[None].to(device)
    reduced: list[Any] = []

    def hook(part: Any, inputs: Any, output: Any) -> None:
        del inputs
        found = output if isinstance(output, tuple) else ()
        weights = next((x for x in found if _is_weights(x, len(sample.ids))), None)
        if weights is None:
            raise _no_weights(part, " with eager attention")
        reduced.append(reduce(weights[0], sample))

    handles = [part.register_forward_hook(hook) for part in attention_modules(module)[layers]]
    try:
        with torch.no_grad():
            module.base_model(input_ids=ids, use_cache=False)
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"sample {sample.id!r}: the attention of {len(sample.ids)} tokens does not fit in memory; lower "
            "encode.max_length, or set device: cpu for this model"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    if not reduced:
        raise _no_weights(module)
    return [part.cpu().numpy() for part in reduced]


def attention_modules(module: Any) -> list[Any]:
    """Return the innermost modules named ``*Attention``, in the order of layers: some architectures nest them."""
    named = [part for part in module.modules() if type(part).__name__.endswith("Attention")]
    known = {id(part) for part in named}
    return [
        part for part in named if not any(id(p) in known and p is not part for p in part.modules())
    ]


def _is_weights(x: Any, size: int) -> bool:
    shape = tuple(getattr(x, "shape", ()))
    return len(shape) == 4 and shape[0] == 1 and shape[2:] == (size, size) and x.is_floating_point()


@contextmanager
def _eager_attention(module: Any) -> Iterator[None]:
    """Use eager attention within the scope, as other implementations return no weights; restore the settings afterwards."""
    if not hasattr(module, "set_attn_implementation"):
        raise _no_weights(module)
    configs = {id(part.config): part.config for part in module.modules() if hasattr(part, "config")}
    saved = [(config, dict(vars(config))) for config in configs.values()]
    try:
        try:
            module.set_attn_implementation("eager")
        except (ValueError, ImportError) as error:
            raise _no_weights(module) from error
        yield
    finally:
        for config, values in saved:
            vars(config).clear()
            vars(config).update(values)


def check_length(module: Any, sample: TokenSample) -> None:
    """Check that ``sample`` fits in the context of ``module``.

    Raises:
        ModelError: it has more tokens.
    """
    limit = getattr(module.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(limit, int) and 0 < limit < len(sample.ids):
        raise ModelError(
            f"sample {sample.id!r} has {len(sample.ids)} tokens, more than the model's context of {limit}: set "
            f"encode.max_length to {limit} or less"
        )


def _no_weights(module: Any, how: str = ": it has no eager attention implementation") -> ModelError:
    return ModelError(
        f"{type(module).__name__} yields no attention weights{how}; name another model for this stage, such as a Llama, "
        "Qwen or GPT-2 kind, or leave the stage out"
    )
