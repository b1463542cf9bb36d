"""The optimiser steps of ``hf.lora``, from the first, or from a checkpoint, to the last."""

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
from nfilter_hf.lora.checkpoint import Checkpoints, Course, shared
from nfilter_hf.lora.choice import Choice
from nfilter_hf.lora.data import TrainRow, step_order
from nfilter_hf.lora.distributed import current
from nfilter_hf.lora.settings import LoraSettings, lr_factor
from nfilter_hf.lora.shard import sharded
from nfilter_hf.lora.step import StepLoss
from nfilter_hf.lora.trackers import Figures
from nfilter_hf.lora.update import TrainingState

_SHOWN = 10  # steps whose mean loss is shown


@dataclass(frozen=True, slots=True)
class Task:
    """What is trained, the same in every process of a launch."""

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
) -> Course:
    """Train a new adapter on ``module``, or ``start``, in this process and the others of its launch.

    Every process calls it with the same task, and goes through the same optimiser steps. ``start``, ``checkpoints``,
    ``figures`` and ``save``, which is called with the trained PEFT model, are those of rank 0; its adapter's first values
    and what its checkpoint holds go to the others.

    Raises:
        ModelError: where no step had a finite loss, memory runs out on one sample, or another process is gone.
    """
    with (
        seeded(module, task.seed),
        adapted(module, task.config, start) as wrapped,
        sharded(module, current()) if task.config.shard else nullcontext(),
    ):
        course = _trained(task, module, wrapped, ctx, checkpoints, figures)
        if save is not None:
            save(wrapped)
    return course


def _trained(
    task: Task,
    module: Any,
    wrapped: Any,
    ctx: Context,
    checkpoints: Checkpoints | None,
    figures: Figures | None,
) -> Course:
    import torch

    began = time.perf_counter()
    rows, config, choice, launch = task.rows, task.config, task.choice, current()
    steps = choice.steps
    state = TrainingState(wrapped, choice, config)
    step_loss = StepLoss(module, config, state.device, ctx, launch)
    step_loss.check_head(rows[0])
    step_loss.check_flat(rows[:4])
    course = checkpoints.go_on(state) if checkpoints is not None else Course()
    course = shared(course, state, launch)
    before, done = course.seconds, len(course.losses)
    wrapped.train()
    try:
        with ctx.progress(steps, "training", lambda: _latest(course.losses)) as bar:
            bar.advance(done)
            order = step_order(len(rows), choice.batch_size, steps, task.seed)
            for step, members in islice(enumerate(order), done, None):
                lr = choice.lr * lr_factor(step, steps, config.warmup, config.schedule)
                state.begin(lr)
                if not launch.leads:
                    # A stream of this process's own at each step: what is resumed draws the same dropout.
                    torch.manual_seed(stream(task.seed, launch.rank, step))
                loss = step_loss([rows[i] for i in members], step, state.scale)
                launch.sum_gradients(state.parameters)
                norm = state.update(loss)
                if norm is None:
                    course.stopped = f"the loss or its gradient was not finite at step {step + 1}"
                    break
                course.losses.append(loss)
                course.tokens.append(sum(len(rows[i].labels) for i in members))
                bar.advance()
                if figures is not None:
                    figures(step + 1, {"loss": loss, "learning_rate": lr, "gradient_norm": norm})
                every = config.checkpoint_every
                if checkpoints is not None and every and not (step + 1) % every:
                    course.seconds = before + time.perf_counter() - began
                    checkpoints.keep(course, state)
        if course.stopped is None and not state.finite:
            course.stopped = "the last step left weights that are not finite"
        if course.stopped is not None:
            _go_back(state, course, choice, ctx)
    finally:
        wrapped.eval()
    course.seconds = before
    return course


def stream(seed: int, rank: int, step: int) -> int:
    """The seed, below 2**63, of the dropout of process ``rank`` at ``step``."""
    drawn = hashlib.sha256(f"dropout {seed} {rank} {step}".encode()).digest()
    return int.from_bytes(drawn[:8], "big") >> 1


def _latest(losses: Sequence[float]) -> str:
    """The mean loss of the last steps, for the progress bar."""
    last = losses[-_SHOWN:]
    return f"loss {sum(last) / len(last):.3f}" if last else ""


def _go_back(state: TrainingState, course: Course, choice: Choice, ctx: Context) -> None:
    # The update before a bad loss is what broke it: the weights from before that update are the last good ones.
    course.losses, course.tokens = course.losses[:-1], course.tokens[:-1]
    if not course.losses:
        raise ModelError(
            f"training failed: {course.stopped}, and no good step came before it; lower train.lr "
            f"(now {choice.lr:g}), set train.max_grad_norm, or check that the base model's own loss is finite"
        )
    state.go_back()
    ctx.log.warning(
        f"training stopped early: {course.stopped}; the adapter is that of step {len(course.losses)}. "
        f"Lower train.lr (now {choice.lr:g}) or raise train.warmup"
    )
