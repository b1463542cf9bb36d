"""The loss and gradient of one optimiser step of ``hf.lora``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from nfilter import AddsPenalty, Context, ModelError
from nfilter_hf.batching import is_out_of_memory
from nfilter_hf.flat import LONGEST, FlatBatch, can_flatten, flat_attention, flatten
from nfilter_hf.lora.adapter import base_only, same_random_numbers
from nfilter_hf.lora.data import (
    MicroBatch,
    TrainRow,
    micro_batches,
    pass_budget,
    share_out,
    weighed_batches,
)
from nfilter_hf.lora.distributed import Launch, Payload
from nfilter_hf.lora.loss import (
    Penalty,
    backward_weighted,
    checked_penalty,
    checked_stats,
    online_weights,
)
from nfilter_hf.lora.settings import LoraSettings, pass_tokens
from nfilter_hf.loss import Head, chunk_size, frozen_matrix, logit_chunks, output_head

if TYPE_CHECKING:
    from torch import Tensor

Stats: TypeAlias = "Mapping[str, Tensor]"
"""Statistics of an online loss by name, each [n], in the order of the forward passes."""


class StepLoss:
    """The loss and gradient of one optimiser step; out of memory, it continues with smaller forward passes.

    With an online loss (``ctx.loss``) each forward pass runs twice: first without gradients, for the statistics of the
    whole step, and again, with the same dropout, for the gradient of the weighted losses. A step of one pass runs it
    once. A loss with a penalty adds a pass of the base without the adapter.
    """

    def __init__(
        self,
        module: Any,
        config: LoraSettings,
        device: Any,
        ctx: Context,
        launch: Launch | None = None,
    ) -> None:
        import torch

        self._launch = launch or Launch()
        self._module = module
        self._body = module.base_model
        self._config = config
        self._device = device
        self._ctx = ctx
        self._budget = pass_tokens(config, device.type)
        self._amp = _autocast(config, device)
        self._chunk = chunk_size(module.get_output_embeddings().weight.shape[0], device.type)
        # A sharded base runs only as a whole model.
        self._head: Head | None = None if config.shard else self._with_amp(output_head(module))
        # In float16 the sums of that product overflow for a large vocabulary.
        plain = not config.shard and module.dtype != torch.float16
        self._matrix = frozen_matrix(module) if plain else None
        self._flat = False
        self._loss = ctx.loss
        self._penalised = isinstance(ctx.loss, AddsPenalty)
        self._idle = False

    def check_head(self, row: TrainRow) -> None:
        """Compare head and body with the model's own forward pass, on the first tokens of a row.

        If they differ, the architecture transforms the logits after its output matrix: the model then computes all
        logits of a forward pass, which needs more memory, and a warning is logged.
        """
        import torch

        head = self._head
        if head is None:
            return
        inputs = torch.from_numpy(row.inputs[None, :16]).to(self._device)
        with torch.no_grad():
            logits = head(self._last_hidden_states(inputs))
            wanted = self._all_logits(inputs)
        near = 1e-3 if logits.dtype == torch.float32 else 2e-2
        # Logits that are not finite cannot be compared; the first step reports them.
        if torch.isfinite(wanted).all() and not torch.allclose(
            logits.float(), wanted.float(), rtol=near, atol=near
        ):
            self._head = self._matrix = None
            self._ctx.log.warning(
                f"{type(self._module).__name__} transforms logits after its output matrix in an unsupported way: the logits "
                "of whole forward passes are in memory; lower train.micro_batch_tokens if it is out of memory"
            )

    def check_flat(self, rows: Sequence[TrainRow]) -> None:
        """Use forward passes without padding if the model supports them with equal states on the first tokens of ``rows``.

        With gradient checkpointing or autocast, passes stay padded.
        """
        import torch

        if (
            self._head is None
            or self._amp is not nullcontext
            or self._config.gradient_checkpointing
            or not can_flatten(self._module)
        ):
            return
        (batch,) = micro_batches([_first_tokens(row, 64) for row in rows], 2**30, "tokens")
        flat = flatten(batch)
        with torch.no_grad():
            got = self._flat_states(flat)[flat.positions].float()
            wanted = self._last_hidden_states(torch.from_numpy(batch.inputs)).flatten(0, 1)
            wanted = wanted[torch.from_numpy(batch.positions)].float()
        self._flat = bool((got - wanted).norm() <= 0.1 * wanted.norm())
        if not self._flat and wanted.isfinite().all():
            self._ctx.log.warning(
                f"{type(self._module).__name__} gives other states without padding: forward passes are padded"
            )

    def __call__(self, rows: Sequence[TrainRow], step: int, scale: float = 1.0) -> float:
        """Add the gradient of this process's passes, times ``scale``, to the parameters; return the whole step's loss.

        ``step`` counts from 0. The loss includes the weights of an online loss, and not the scale.

        Raises:
            ModelError: memory is too small for a single sample.
        """
        while True:
            budget = pass_budget(rows, self._budget, self._config.loss_norm, self._launch.size)
            try:
                return self._passes(rows, budget, step, scale)
            except (RuntimeError, MemoryError) as error:
                # The error is not kept: its frames would hold the memory of the pass.
                if not is_out_of_memory(error):
                    raise
            longest = max(len(row.inputs) for row in rows)
            if budget <= longest:
                raise ModelError(
                    f"out of memory on {self._device} with one sample of {longest} tokens: set "
                    "train.gradient_checkpointing: true, a smaller encode.max_length, or load_in_4bit: true for the model"
                )
            self._shrink(longest, budget)

    def _passes(self, rows: Sequence[TrainRow], budget: int, step: int, scale: float) -> float:
        """Run the step in forward passes of at most ``budget`` tokens; return its loss."""
        batches = micro_batches(rows, budget, self._config.loss_norm)
        outputs: Tensor | None = None
        if self._loss is not None:
            # With one pass, its graph serves the statistics and the gradient.
            if len(batches) == self._launch.size == 1:
                outputs = self._outputs(batches[0])
            batches = self._weighed(batches, step, outputs)

        def backward() -> Payload:
            here = self._own(batches)
            losses = [self._backward(batch, outputs, scale) for batch in here]
            for batch in self._idle_passes(batches, len(here)):
                self._backward(batch, None, scale)
            return {"loss": float(sum(losses))}, {}

        return float(sum(values["loss"] for values, _ in self._launch.together(backward)))

    def _own(self, batches: Sequence[MicroBatch]) -> list[MicroBatch]:
        """Return the forward passes of this process, in order."""
        owners = share_out([batch.inputs.size for batch in batches], self._launch.size)
        rank = self._launch.rank
        return [batch for batch, owner in zip(batches, owners, strict=True) if owner == rank]

    def _idle_passes(self, batches: Sequence[MicroBatch], here: int) -> list[MicroBatch]:
        """Return passes without a loss, so that all processes run equally many: a sharded base needs that."""
        if not self._config.shard:
            return []
        owners = share_out([batch.inputs.size for batch in batches], self._launch.size)
        most = max(owners.count(rank) for rank in range(self._launch.size))
        smallest = min(batches, key=lambda batch: batch.inputs.size)
        return [_without_loss(smallest)] * (most - here)

    def _shrink(self, longest: int, budget: int) -> None:
        """Halve the tokens per forward pass, to ``longest`` at least, and free memory."""
        import torch

        self._budget = max(longest, budget // 2)
        self._ctx.log.warning(
            f"out of memory: training continues with {self._budget} tokens per forward pass; "
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

    def _last_hidden_states(self, inputs: Tensor) -> Tensor:
        with self._amp():
            states: Tensor = self._body(input_ids=inputs, use_cache=False).last_hidden_state
        return states

    def _all_logits(self, inputs: Tensor) -> Tensor:
        with self._amp():
            logits: Tensor = self._module(input_ids=inputs, use_cache=False).logits
        return logits

    def _weighed(
        self, batches: list[MicroBatch], step: int, outputs: Tensor | None
    ) -> list[MicroBatch]:
        """Return ``batches`` with the weights of the online loss in their coefficients."""
        import torch

        loss, norm = self._loss, self._config.loss_norm
        assert loss is not None
        with torch.no_grad(), same_random_numbers(self._module):
            stats = self._statistics(batches, outputs)
            # Without finite states there are no statistics; the loss reports it.
            if stats is None:
                return batches
            weights = online_weights(loss, stats, batches, self._device, step)
        if not self._idle and not self._penalised and not weights.any():
            self._idle = True
            self._ctx.log.warning(
                f"the online loss {loss.name!r} gave weight 0 to every token of step {step + 1}: the step does not change the adapter"
            )
        return weighed_batches(batches, weights, norm, loss.mean_over, penalised=self._penalised)

    def _statistics(self, batches: Sequence[MicroBatch], outputs: Tensor | None) -> Stats | None:
        """Return the online loss's statistics, each [n], of all passes of the step; None if states are not finite."""
        loss = self._loss
        assert loss is not None

        def own() -> Payload:
            batches_here = self._own(batches)
            idle = self._idle_passes(batches, len(batches_here))
            stats = self._own_statistics(batches_here, outputs, idle)
            checked_stats(loss, stats or {}, sum(len(batch.labels) for batch in batches_here))
            return {"finite": stats is not None}, stats or {}

        results = self._launch.together(own)
        if not all(values["finite"] for values, _ in results):
            return None
        if len(results) == 1:
            return results[0][1]
        return self._in_order(batches, [stats for _, stats in results])

    def _in_order(self, batches: Sequence[MicroBatch], by_rank: Sequence[Stats]) -> Stats:
        """Return the statistics of all passes in order, from those of each process."""
        import torch

        owners = share_out([batch.inputs.size for batch in batches], self._launch.size)
        taken = [0] * self._launch.size
        parts: list[Stats] = []
        for batch, owner in zip(batches, owners, strict=True):
            where = slice(taken[owner], taken[owner] + len(batch.labels))
            taken[owner] = where.stop
            parts.append({name: values[where] for name, values in by_rank[owner].items()})
        return {
            name: torch.cat([part[name] for part in parts]).to(self._device) for name in parts[0]
        }

    def _own_statistics(
        self, batches: Sequence[MicroBatch], outputs: Tensor | None, idle: Sequence[MicroBatch]
    ) -> dict[str, Tensor] | None:
        """Return the statistics of this process's passes; None if states are not finite."""
        import torch

        loss = self._loss
        assert loss is not None
        parts: list[Stats] = []
        finite = True
        for batch in batches:
            states, labels = self._states(batch, outputs)
            finite = finite and bool(torch.isfinite(states).all())
            if not finite:
                continue
            chunks = logit_chunks(self._head or _identity, states, labels, self._chunk)
            parts += [loss.stats(logits, wanted) for _, logits, wanted in chunks]
        for batch in idle:
            self._states(batch, None)
        if not finite:
            return None
        names = parts[0] if parts else ()
        return {name: torch.cat([part[name] for part in parts]) for name in names}

    def _outputs(self, batch: MicroBatch) -> Tensor:
        import torch

        if self._is_flat(batch):
            return self._flat_states(flatten(batch))
        inputs = torch.from_numpy(batch.inputs).to(self._device)
        outputs = (
            self._all_logits(inputs) if self._head is None else self._last_hidden_states(inputs)
        )
        return outputs.flatten(0, 1)

    def _states(self, batch: MicroBatch, outputs: Tensor | None) -> tuple[Tensor, Tensor]:
        import torch

        if outputs is None:
            outputs = self._outputs(batch)
        labels = torch.from_numpy(batch.labels).to(self._device)
        positions = (
            flatten(batch).positions
            if self._is_flat(batch)
            else torch.from_numpy(batch.positions).to(self._device)
        )
        return outputs[positions], labels

    def _is_flat(self, batch: MicroBatch) -> bool:
        return self._flat and batch.inputs.shape[1] <= LONGEST

    def _flat_states(self, flat: FlatBatch) -> Tensor:
        with flat_attention(self._module):
            states: Tensor = self._body(
                input_ids=flat.inputs,
                position_ids=flat.position_ids,
                nfilter_layout=flat.layout,
                use_cache=False,
            ).last_hidden_state
        return states[0]

    def _backward(self, batch: MicroBatch, outputs: Tensor | None, scale: float) -> float:
        import torch

        if not len(batch.labels) and self._config.shard:
            batch = _without_loss(batch)
        if not len(batch.labels):
            # The pass runs for its random numbers: later passes then draw the same dropout as for the statistics.
            with torch.no_grad():
                self._states(batch, outputs)
            return 0.0
        penalty = self._penalty(batch, scale)
        states, labels = self._states(batch, outputs)
        factors = torch.from_numpy(batch.coefficients).to(self._device) * scale
        head = self._head or _identity
        loss = backward_weighted(head, states, labels, factors, self._chunk, self._matrix, penalty)
        return float(loss) / scale

    def _penalty(self, batch: MicroBatch, scale: float) -> Penalty | None:
        """Return the online loss's penalty of a pass, times ``scale``; runs the base without the adapter."""
        import torch

        loss = self._loss
        if batch.penalties is None or loss is None or not isinstance(loss, AddsPenalty):
            return None
        penalise = loss.penalty
        head, matrix = self._head or _identity, self._module.get_output_embeddings()
        factors = torch.from_numpy(batch.penalties).to(self._device) * scale
        with torch.no_grad(), base_only(self._module):
            reference, _ = self._states(batch, None)

        def penalty(where: slice, logits: Tensor, labels: Tensor) -> Tensor:
            with torch.no_grad(), base_only(matrix):
                values = head(reference[where])
            found = penalise(logits, labels, values)
            return (checked_penalty(loss, found, len(labels)) * factors[where]).sum()

        return penalty


def _first_tokens(row: TrainRow, tokens: int) -> TrainRow:
    """Return a row of the first tokens, with one prediction at the last of them."""
    inputs = row.inputs[:tokens]
    last = np.asarray([len(inputs) - 1])
    return replace(row, inputs=inputs, positions=last, labels=last, weights=np.ones(1, np.float32))


def _without_loss(batch: MicroBatch) -> MicroBatch:
    """Return the pass with one prediction of coefficient 0, so that it has a backward pass."""
    nothing, zero = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.float32)
    return replace(
        batch,
        positions=nothing,
        labels=nothing,
        coefficients=zero,
        penalties=None if batch.penalties is None else zero,
    )


def _identity(logits: Tensor) -> Tensor:
    return logits


def _autocast(config: LoraSettings, device: Any) -> Callable[[], AbstractContextManager[Any]]:
    import torch

    use = config.bf16
    if use == "auto":
        use = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if not use:
        return nullcontext
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16)
