"""One optimiser step of ``hf.lora`` up to its gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from nfilter import Context, ModelError
from nfilter_hf.batches_train import MicroBatch, TrainRow, micro_batches
from nfilter_hf.lora_settings import LoraSettings
from nfilter_hf.loss import Head, backward_weighted, chunk_size, output_head


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
        plain = output_head(module)
        self._chunk = chunk_size(module.get_output_embeddings().weight.shape[0])

        def head(hidden: Any) -> Any:
            with self._amp():
                return plain(hidden)

        self._head: Head = head

    def check_head(self, row: TrainRow) -> None:
        """Compare head and body with the model's own forward pass; ModelError where they are not the same."""
        import torch

        inputs = torch.from_numpy(row.inputs[None, :16]).to(self._device)
        with torch.no_grad():
            states = self._hidden(inputs)
            with self._amp():
                wanted = self._module(input_ids=inputs, use_cache=False).logits.float()
            logits = self._head(states)
        near = 1e-3 if logits.dtype == torch.float32 else 2e-2
        # A base that is broken has no finite logits to compare; the first step will say so.
        if torch.isfinite(wanted).all() and not torch.allclose(
            logits.float(), wanted, rtol=near, atol=near
        ):
            kind = type(self._module).__name__
            raise ModelError(
                f"{kind} does more behind its output matrix than this trainer knows, so its loss would be wrong: "
                "train a model of another architecture (Llama, Qwen, Mistral, Gemma, ...)"
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

    def _hidden(self, inputs: Any) -> Any:
        with self._amp():
            return self._body(input_ids=inputs, use_cache=False).last_hidden_state

    def _backward(self, batch: MicroBatch) -> float:
        import torch

        inputs, positions, labels, factors = (
            torch.from_numpy(array).to(self._device)
            for array in (batch.inputs, batch.positions, batch.labels, batch.coefficients)
        )
        states = self._hidden(inputs).flatten(0, 1)[positions]
        return float(backward_weighted(self._head, states, labels, factors, self._chunk))


def _autocast(config: LoraSettings, device: Any) -> Callable[[], AbstractContextManager[Any]]:
    import torch

    use = config.bf16
    if use == "auto":
        use = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if not use:
        return nullcontext
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16)
