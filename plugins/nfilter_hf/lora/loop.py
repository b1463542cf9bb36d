"""The training loop of ``hf.lora``, from step 1 or from a checkpoint."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

from nfilter import Context, ModelError, ModelRef
from nfilter_hf.lora.adapter import adapted, seeded
from nfilter_hf.lora.checkpoint import Checkpoints, TrainingProgress, shared
from nfilter_hf.lora.choice import Choice
from nfilter_hf.lora.data import TrainRow, step_order
from nfilter_hf.lora.distributed import current
from nfilter_hf.lora.settings import LoraSettings, lr_factor
from nfilter_hf.lora.shard import sharded
from nfilter_hf.lora.step import StepLoss
from nfilter_hf.lora.trackers import Figures
from nfilter_hf.lora.update import TrainingState

_SHOWN = 10  # last steps in the mean loss of the progress bar


@dataclass(frozen=True, slots=True)
class Task:
    """The rows and settings of a training, equal in every process of a launch."""

    rows: Sequence[TrainRow]
    config: LoraSettings
    choice: Choice
    seed: int


def train_adapter(
    task: Task,
    module: Any,
    ctx: Context,
    *,
    start: ModelRef | None = None,
    checkpoints: Checkpoints | None = None,
    figures: Figures | None = None,
    save: Callable[[Any], None] | None = None,
) -> TrainingProgress:
    """Train a new adapter on ``module``, or the adapter ``start``, in all processes of a launch.

    Every process calls it with the same task and takes the same optimiser steps. Only rank 0 passes ``start``,
    ``checkpoints``, ``figures`` and ``save``, which is called with the trained PEFT model; its initial adapter and
    its checkpoint are sent to the others.

    Raises:
        ModelError: no step had a finite loss, memory is too small for one sample, or another process ended.
    """
    with (
        seeded(module, task.seed),
        adapted(module, task.config, start) as wrapped,
        sharded(module, current()) if task.config.shard else nullcontext(),
    ):
        progress = _optimise(task, module, wrapped, ctx, checkpoints, figures)
        if save is not None:
            save(wrapped)
    return progress


def _optimise(
    task: Task,
    module: Any,
    wrapped: Any,
    ctx: Context,
    checkpoints: Checkpoints | None,
    figures: Figures | None,
) -> TrainingProgress:
    """Take the optimiser steps from the checkpoint's, if one matches, to the last."""
    import torch

    began = time.perf_counter()
    rows, config, choice, launch = task.rows, task.config, task.choice, current()
    steps = choice.steps
    state = TrainingState(wrapped, choice, config)
    step_loss = StepLoss(module, config, state.device, ctx, launch)
    step_loss.check_head(rows[0])
    step_loss.check_flat(rows[:4])
    progress = checkpoints.resume(state) if checkpoints is not None else TrainingProgress()
    progress = shared(progress, state, launch)
    before, done = progress.seconds, len(progress.losses)
    first_ended: float | None = None
    wrapped.train()
    try:
        with ctx.progress(steps, "training", lambda: _latest(progress.losses)) as bar:
            bar.advance(done)
            order = step_order(len(rows), choice.batch_size, steps, task.seed)
            for step, members in islice(enumerate(order), done, None):
                lr = choice.lr * lr_factor(step, steps, config.warmup, config.schedule)
                state.begin(lr)
                if not launch.leads:
                    # A seed per process and step: a resumed training draws the same dropout.
                    torch.manual_seed(stream(task.seed, launch.rank, step))
                loss = step_loss([rows[i] for i in members], step, state.scale)
                launch.sum_gradients(state.parameters)
                norm = state.update(loss)
                if norm is None:
                    progress.stopped = f"the loss or its gradient was not finite at step {step + 1}"
                    break
                progress.losses.append(loss)
                progress.tokens.append(sum(len(rows[i].labels) for i in members))
                now = time.perf_counter()
                if first_ended is None:
                    first_ended = now
                else:
                    progress.seconds_per_step = (now - first_ended) / (step - done)
                bar.advance()
                if figures is not None:
                    figures(step + 1, {"loss": loss, "learning_rate": lr, "gradient_norm": norm})
                every = config.checkpoint_every
                if checkpoints is not None and every and not (step + 1) % every:
                    progress.seconds = before + time.perf_counter() - began
                    checkpoints.save(progress, state)
        if progress.stopped is None and not state.finite:
            progress.stopped = "the last step left weights that are not finite"
        if progress.stopped is not None:
            _undo_step(state, progress, choice, ctx)
    finally:
        wrapped.eval()
    progress.seconds = before
    return progress


def stream(seed: int, rank: int, step: int) -> int:
    """Return the seed, below 2**63, of the dropout in process ``rank`` at ``step``."""
    drawn = hashlib.sha256(f"dropout {seed} {rank} {step}".encode()).digest()
    return int.from_bytes(drawn[:8], "big") >> 1


def _latest(losses: Sequence[float]) -> str:
    """Return the mean loss of the last steps, for the progress bar."""
    last = losses[-_SHOWN:]
    return f"loss {sum(last) / len(last):.3f}" if last else ""


def _undo_step(
    state: TrainingState, progress: TrainingProgress, choice: Choice, ctx: Context
) -> None:
    """Restore the weights before the last update, which caused the loss that is not finite; log a warning."""
    progress.losses, progress.tokens = progress.losses[:-1], progress.tokens[:-1]
    if not progress.losses:
        raise ModelError(
            f"training failed: {progress.stopped}, and no step before it was finite; lower train.lr "
            f"(now {choice.lr:g}), set train.max_grad_norm, or check that the base model's loss is finite"
        )
    state.undo_step()
    ctx.log.warning(
        f"training stopped early: {progress.stopped}; the adapter is that of step {len(progress.losses)}. "
        f"Lower train.lr (now {choice.lr:g}) or raise train.warmup"
    )
