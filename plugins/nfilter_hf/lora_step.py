"""One optimiser step of ``hf.lora`` up to its gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from nfilter import Context, ModelError
from nfilter_hf.batches_train import MicroBatch, TrainRow, micro_batches
from nfilter_hf.lora_settings import LoraSettings
from nfilter_hf.loss import Head, backward_weighted, chunk_size, output_head

if TYPE_CHECKING:
    from torch import Tensor


class StepLoss:
    """The loss of one optimiser step, forward and backward; it shrinks its forward passes when memory runs out."""

    def __init__(self, module: Any, config: LoraSettings, device: Any, ctx: Context) -> None:
        self._module = module
        self._body = module.base_model
        self._config = config
        self._device = device
        self._ctx = ctx
        self._budget = config.micro_batch_tokens
        self._amp = _autocast(config, device)
        self._chunk = chunk_size(module.get_output_embeddings().weight.shape[0])
        self._head: Head | None = self._with_amp(output_head(module))

    def check_head(self, row: TrainRow) -> None:
        """Compare head and body with the model's own forward pass, once, on the first tokens of a row.

        Where they differ, the architecture does more behind its output matrix than is known here: all logits of
        a forward pass then come from the model itself, which needs more memory and says so.
        """
        import torch

        inputs = torch.from_numpy(row.inputs[None, :16]).to(self._device)
        head = self._head
        assert head is not None
        with torch.no_grad():
            logits = head(self._hidden(inputs))
            wanted = self._whole(inputs)
        near = 1e-3 if logits.dtype == torch.float32 else 2e-2
        # A base that is broken has no finite logits to compare; the first step will say so.
        if torch.isfinite(wanted).all() and not torch.allclose(
            logits.float(), wanted.float(), rtol=near, atol=near
        ):
            self._head = None
            self._ctx.log.warning(
                f"{type(self._module).__name__} does more behind its output matrix than is known here: the logits "
                "of whole forward passes are held in memory; set train.micro_batch_tokens lower if it runs out"
            )

    def __call__(self, rows: Sequence[TrainRow]) -> float:
        """Add the gradient of the step's loss to the parameters and return that loss."""
        import torch

        while True:
            try:
                batches = micro_batches(rows, self._budget, self._config.loss_norm)
                return float(sum(self._backward(batch) for batch in batches))
            except torch.OutOfMemoryError as error:
                longest = max(len(row.inputs) for row in rows)
                if self._budget <= longest:
                    raise ModelError(
                        f"out of memory on {self._device} with one sample of {longest} tokens: set "
                        "train.gradient_checkpointing: true, a smaller encode.max_length, or a 4-bit base"
                    ) from error
            self._shrink(longest)

    def _shrink(self, longest: int) -> None:
        import torch

        self._budget = max(longest, min(self._budget, self._config.micro_batch_tokens) // 2)
        self._ctx.log.warning(
            f"out of memory: forward passes of {self._budget} tokens from now on; "
            f"set train.micro_batch_tokens: {self._budget}"
        )
        for parameter in self._module.parameters():
            parameter.grad = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _with_amp(self, head: Head) -> Head:
        def run(hidden: Tensor) -> Tensor:
            with self._amp():
                return head(hidden)

        return run

    def _hidden(self, inputs: Tensor) -> Tensor:
        with self._amp():
            states: Tensor = self._body(input_ids=inputs, use_cache=False).last_hidden_state
        return states

    def _whole(self, inputs: Tensor) -> Tensor:
        with self._amp():
            logits: Tensor = self._module(input_ids=inputs, use_cache=False).logits
        return logits

    def _backward(self, batch: MicroBatch) -> float:
        import torch

        inputs, positions, labels, factors = (
            torch.from_numpy(array).to(self._device)
            for array in (batch.inputs, batch.positions, batch.labels, batch.coefficients)
        )
        head = self._head
        states = self._whole(inputs) if head is None else self._hidden(inputs)
        states = states.flatten(0, 1)[positions]
        return float(backward_weighted(head or _as_it_is, states, labels, factors, self._chunk))


def _as_it_is(logits: Tensor) -> Tensor:
    return logits


def _autocast(config: LoraSettings, device: Any) -> Callable[[], AbstractContextManager[Any]]:
    import torch

    use = config.bf16
    if use == "auto":
        use = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if not use:
        return nullcontext
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16)
