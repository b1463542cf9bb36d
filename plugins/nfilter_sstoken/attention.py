"""How much attention each token pays to the prompt, in the last layer of a local model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from nfilter import FloatArray, ModelError, TokenSample


def prompt_attention(module: Any, samples: Sequence[TokenSample]) -> Iterator[FloatArray]:
    """Yield float32 [T] per sample, NaN outside the response: the attention of a token to all prompt tokens, in [0, 1].

    With A_ij the attention of query i to key j in the last layer, averaged over heads, the score of token i is the sum of
    A_ij over the positions j before the response. Samples are read one at a time; the module's attention implementation
    is restored.

    Raises:
        ModelError: if the model yields no attention weights.
    """
    with _eager(module):
        for sample in samples:
            scores = np.full(len(sample.ids), np.nan, dtype=np.float32)
            if sample.response.any():
                scores[sample.response] = _read(module, sample)[sample.response]
            yield scores


def _read(module: Any, sample: TokenSample) -> FloatArray:
    import torch

    last = _attention_modules(module)
    if not last:
        raise _no_weights(module)
    rows: list[Any] = []
    prompt = torch.from_numpy(~np.logical_or.accumulate(sample.response))

    def hook(part: Any, inputs: Any, output: Any) -> None:
        del part, inputs
        size = len(sample.ids)
        found = output if isinstance(output, tuple) else ()
        weights = [x for x in found if tuple(getattr(x, "shape", ()))[2:] == (size, size)]
        if weights:
            rows.append(weights[0][0].float().mean(0)[:, prompt.to(weights[0].device)].sum(-1))

    device = next(module.parameters()).device
    ids = torch.from_numpy(np.array(sample.ids, dtype=np.int64))[None].to(device)
    handle = last[-1].register_forward_hook(hook)
    try:
        with torch.no_grad():
            module.base_model(input_ids=ids, use_cache=False)
    finally:
        handle.remove()
    if not rows:
        raise _no_weights(module)
    return np.asarray(rows[0].cpu().numpy(), dtype=np.float32)


def _attention_modules(module: Any) -> list[Any]:
    """Return the innermost modules named ``*Attention``, in the order of layers."""
    named = [part for part in module.modules() if type(part).__name__.endswith("Attention")]
    known = {id(part) for part in named}
    return [
        part for part in named if not any(id(p) in known and p is not part for p in part.modules())
    ]


@contextmanager
def _eager(module: Any) -> Iterator[None]:
    """Use eager attention, the only implementation that returns weights, and eval mode; restore both afterwards."""
    if not hasattr(module, "set_attn_implementation"):
        raise _no_weights(module)
    configs = {id(part.config): part.config for part in module.modules() if hasattr(part, "config")}
    saved = [(config, dict(vars(config))) for config in configs.values()]
    training = [part for part in module.modules() if part.training]
    try:
        module.eval()
        try:
            module.set_attn_implementation("eager")
        except (ValueError, ImportError) as error:
            raise _no_weights(module) from error
        yield
    finally:
        for config, values in saved:
            vars(config).clear()
            vars(config).update(values)
        for part in training:
            part.training = True


def _no_weights(module: Any) -> ModelError:
    return ModelError(
        f"{type(module).__name__} yields no attention weights; name another model for sstoken.select, such as a Llama, "
        "Qwen or GPT-2 kind, or set rho: 1, which reads no attention"
    )
