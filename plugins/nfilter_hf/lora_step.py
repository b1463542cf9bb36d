"""One optimiser step of ``hf.lora`` up to its gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from nfilter import Context, ModelError
from nfilter_hf.batches_train import MicroBatch, TrainRow, micro_batches, weighed_batches
from nfilter_hf.lora_base import rehearsed
from nfilter_hf.lora_online import online_weights
from nfilter_hf.lora_settings import LoraSettings
from nfilter_hf.loss import Head, backward_weighted, chunk_size, logit_chunks, output_head

if TYPE_CHECKING:
    from torch import Tensor


class StepLoss:
    """The loss of one optimiser step, forward and backward; it shrinks its forward passes when memory runs out.

    With an online loss (``ctx.loss``) every forward pass runs twice: once without gradients, for the statistics of
    the whole step, and once more, with the same dropout, for the gradient of the losses weighed by them.
    """

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
        self._loss = ctx.loss
        self._idle = False

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

    def __call__(self, rows: Sequence[TrainRow], step: int) -> float:
        """Add the gradient of the step's loss to the parameters and return that loss; steps count from 0.

        The loss that is returned has the online loss's weights in it.
        """
        import torch

        while True:
            try:
                batches = micro_batches(rows, self._budget, self._config.loss_norm)
                if self._loss is not None:
                    batches = self._weighed(batches, step)
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

    def _weighed(self, batches: list[MicroBatch], step: int) -> list[MicroBatch]:
        import torch

        loss, norm = self._loss, self._config.loss_norm
        assert loss is not None
        parts = []
        with torch.no_grad(), rehearsed(self._module):
            for batch in batches:
                states, labels = self._states(batch)
                # A model that is broken has no statistics; its loss will say so.
                if not torch.isfinite(states).all():
                    return batches
                chunks = logit_chunks(self._head or _as_it_is, states, labels, self._chunk)
                parts += [loss.stats(logits, wanted) for _, logits, wanted in chunks]
            weights = online_weights(loss, parts, batches, self._device, step)
        if not self._idle and not weights.any():
            self._idle = True
            self._ctx.log.warning(
                f"the online loss {loss.name!r} gave weight 0 to every token of step {step + 1}: nothing is learnt from it"
            )
        return weighed_batches(batches, weights, norm, loss.mean_over)

    def _states(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        import torch

        inputs, positions, labels = (
            torch.from_numpy(array).to(self._device)
            for array in (batch.inputs, batch.positions, batch.labels)
        )
        states = self._whole(inputs) if self._head is None else self._hidden(inputs)
        return states.flatten(0, 1)[positions], labels

    def _backward(self, batch: MicroBatch) -> float:
        import torch

        if not len(batch.labels):
            # Read all the same, so that the passes behind it have the dropout that they had in rehearsal.
            with torch.no_grad():
                self._states(batch)
            return 0.0
        states, labels = self._states(batch)
        factors = torch.from_numpy(batch.coefficients).to(self._device)
        head = self._head or _as_it_is
        return float(backward_weighted(head, states, labels, factors, self._chunk))


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
