"""The state of a training: the adapter, its optimiser, the gradient scale, the random generators."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from nfilter_hf.lora.choice import Choice
from nfilter_hf.lora.settings import LoraSettings

if TYPE_CHECKING:
    from torch import Tensor

_MOMENTS: Final = ("step", "exp_avg", "exp_avg_sq")


class TrainingState:
    """The trainable tensors of a PEFT model and an AdamW for them, in one process.

    With a base in float16 the loss is multiplied by ``scale``, as small gradients would underflow; a gradient that is
    not finite halves it and skips the step, and 2,000 steps without one double it. With other bases it is 1.
    ``previous`` are the values before the last step.
    """

    def __init__(self, wrapped: Any, choice: Choice, config: LoraSettings) -> None:
        import torch

        self.names, self.parameters = zip(
            *((name, p) for name, p in wrapped.named_parameters() if p.requires_grad), strict=True
        )
        self.device = self.parameters[0].device
        self._limit = config.max_grad_norm or math.inf
        self._optimizer = torch.optim.AdamW(
            self.parameters,
            lr=choice.lr,
            weight_decay=config.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),
        )
        half = any(p.dtype == torch.float16 for p in wrapped.parameters())
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=half)
        # The scaler creates its scale at the first use.
        self._scaler.scale(torch.ones((), device=self.device))
        self.previous = [parameter.detach().clone() for parameter in self.parameters]

    @property
    def scale(self) -> float:
        """The factor of the next step's loss before its backward pass."""
        return float(self._scaler.get_scale())

    @property
    def finite(self) -> bool:
        """Whether all values of the adapter are finite."""
        return all(bool(parameter.isfinite().all()) for parameter in self.parameters)

    def begin(self, lr: float) -> None:
        """Clear the gradients of the previous step; the next update has the learning rate ``lr``."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.zero_grad()

    def update(self, loss: float) -> float | None:
        """Clip the gradients and take the step; return the gradient norm before clipping.

        Returns None, without a step, if the loss is not finite, or the gradient is not at a scale of 1. At a higher
        scale a gradient that is not finite skips the step and lowers the scale.
        """
        import torch

        scaled = self.scale > 1
        self._scaler.unscale_(self._optimizer)
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self._limit))
        if not math.isfinite(loss + norm) and not (scaled and math.isfinite(loss)):
            return None
        with torch.no_grad():
            for kept, parameter in zip(self.previous, self.parameters, strict=True):
                kept.copy_(parameter)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return norm

    def undo_step(self) -> None:
        """Restore the values before the last step."""
        import torch

        with torch.no_grad():
            for kept, parameter in zip(self.previous, self.parameters, strict=True):
                parameter.copy_(kept)

    def tensors(self) -> dict[str, Tensor]:
        """Return the whole state by unique names, on the CPU. Before the first step it has no moments."""
        import torch

        kept = {"generator cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            kept["generator cuda"] = torch.cuda.get_rng_state(self.device)
        if self._scaler.is_enabled():
            kept["scale"] = torch.tensor([self.scale, self._scaler.state_dict()["_growth_tracker"]])
        moments = self._optimizer.state_dict()["state"]
        for place, name in enumerate(self.names):
            kept[f"adapter {name}"] = self.parameters[place]
            kept[f"before {name}"] = self.previous[place]
            kept.update({f"{key} {name}": value for key, value in moments.get(place, {}).items()})
        return {name: value.detach().to("cpu").contiguous() for name, value in kept.items()}

    def restore(self, tensors: Mapping[str, Tensor], *, generators: bool = True) -> None:
        """Restore the state from ``tensors``, the random generators only with ``generators``.

        Raises:
            KeyError: a tensor is missing; the state is unchanged.
            ValueError: a tensor has another shape; the state is unchanged.
        """
        import torch

        moments: dict[int, dict[str, Tensor]] = {}
        for place, name in enumerate(self.names):
            shape = self.parameters[place].shape
            if (
                tensors[f"adapter {name}"].shape != shape
                or tensors[f"before {name}"].shape != shape
            ):
                raise ValueError(f"{name} has another shape")
            # Without generators the state may be of a process before its first step.
            if generators or f"step {name}" in tensors:
                moments[place] = {key: tensors[f"{key} {name}"] for key in _MOMENTS}
        generator = tensors["generator cpu"]
        cuda = tensors["generator cuda"] if self.device.type == "cuda" else None
        scale = tensors["scale"].tolist() if self._scaler.is_enabled() else None
        with torch.no_grad():
            for place, name in enumerate(self.names):
                self.parameters[place].copy_(tensors[f"adapter {name}"])
                self.previous[place].copy_(tensors[f"before {name}"])
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        if scale is not None:
            state = self._scaler.state_dict()
            self._scaler.load_state_dict(
                {**state, "scale": scale[0], "_growth_tracker": int(scale[1])}
            )
        if not generators:
            return
        torch.set_rng_state(generator)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, self.device)
