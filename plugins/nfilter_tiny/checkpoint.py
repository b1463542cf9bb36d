"""Checkpoints of a training run in safetensors: weights, optimizer state and step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nfilter import publishing_file

if TYPE_CHECKING:
    import torch
    from torch import nn


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    meta: Mapping[str, str],
) -> None:
    """Write all state needed to resume, by an atomic replacement."""
    import torch
    from safetensors.torch import save_file

    tensors = {f"model/{name}": p.detach() for name, p in model.named_parameters()}
    for i, optimizer in enumerate(optimizers):
        for j, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                tensors[f"optimizer/{i}/{j}/{key}"] = torch.as_tensor(value)
    with publishing_file(path) as part:
        save_file({k: v.contiguous() for k, v in tensors.items()}, part, metadata=dict(meta))


def load_checkpoint(
    path: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> dict[str, str]:
    """Restore the state from ``save_checkpoint`` and return its ``meta``."""
    import torch
    from safetensors import safe_open

    parameters = dict(model.named_parameters())
    states = [optimizer.state_dict() for optimizer in optimizers]
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (safe_open is not iterable)
            section, _, rest = name.partition("/")
            tensor = file.get_tensor(name)
            if section == "model":
                with torch.no_grad():
                    parameters[rest].copy_(tensor)
            else:
                i, j, key = rest.split("/")
                states[int(i)]["state"].setdefault(int(j), {})[key] = tensor
        meta = dict(file.metadata() or {})
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict(state)
    return meta
