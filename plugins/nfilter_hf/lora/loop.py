"""The optimiser steps of ``hf.lora``, from the first, or from a checkpoint, to the last."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

from nfilter import Context, ModelError
from nfilter_hf.lora.checkpoint import Checkpoints, Course, TrainingState
from nfilter_hf.lora.choice import Choice
from nfilter_hf.lora.data import TrainRow, step_order
from nfilter_hf.lora.settings import LoraSettings, lr_factor
from nfilter_hf.lora.step import StepLoss
from nfilter_hf.lora_crew import Crew

_SHOWN = 10  # steps whose mean loss is shown


def run_course(
    rows: Sequence[TrainRow],
    module: Any,
    wrapped: Any,
    choice: Choice,
    config: LoraSettings,
    ctx: Context,
    checkpoints: Checkpoints,
    crew: Crew,
    job: dict[str, Any],
) -> Course:
    """Train the adapter of ``wrapped`` as ``choice`` says, or do what a checkpoint left of it.

    A loss that is not finite ends it with the adapter of the last good step, or in a ModelError where there is none.
    ``job`` is what the crew's other processes are told first.
    """
    import torch

    began = time.perf_counter()
    steps = choice.steps
    names, parameters = zip(
        *((name, p) for name, p in wrapped.named_parameters() if p.requires_grad), strict=True
    )
    device = parameters[0].device
    optimizer = torch.optim.AdamW(
        parameters,
        lr=choice.lr,
        weight_decay=config.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )
    step_loss = StepLoss(module, config, device, ctx, crew)
    step_loss.check_head(rows[0])
    step_loss.check_flat(rows[:4])
    good = [parameter.detach().clone() for parameter in parameters]
    state = TrainingState(parameters, good, optimizer, device)
    course = checkpoints.go_on(names, state)
    before, done = course.seconds, len(course.losses)
    crew.start({**job, "first": done, "steps": steps}, rows)
    wrapped.train()
    try:
        with ctx.progress(steps, "training", lambda: _latest(course.losses)) as bar:
            bar.advance(done)
            order = step_order(len(rows), choice.batch_size, steps, ctx.seed)
            for step, members in islice(enumerate(order), done, None):
                factor = lr_factor(step, steps, config.warmup, config.schedule)
                for group in optimizer.param_groups:
                    group["lr"] = choice.lr * factor
                optimizer.zero_grad()
                crew.begin(step, parameters)
                loss = step_loss([rows[i] for i in members], step)
                crew.collect(parameters)
                norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm or math.inf)
                if not math.isfinite(loss + float(norm)):
                    course.stopped = f"the loss or its gradient was not finite at step {step + 1}"
                    break
                with torch.no_grad():
                    for kept, parameter in zip(good, parameters, strict=True):
                        kept.copy_(parameter)
                optimizer.step()
                course.losses.append(loss)
                course.tokens.append(sum(len(rows[i].labels) for i in members))
                bar.advance()
                if config.checkpoint_every and not (step + 1) % config.checkpoint_every:
                    course.seconds = before + time.perf_counter() - began
                    checkpoints.keep(course, names, state)
        crew.end()
        if course.stopped is None and not all(bool(p.isfinite().all()) for p in parameters):
            course.stopped = "the last step left weights that are not finite"
        if course.stopped is not None:
            _go_back(parameters, good, course, choice, ctx)
    finally:
        wrapped.eval()
    course.seconds = before
    return course


def _latest(losses: Sequence[float]) -> str:
    """The mean loss of the last steps, for the progress bar."""
    last = losses[-_SHOWN:]
    return f"loss {sum(last) / len(last):.3f}" if last else ""


def _go_back(
    parameters: Sequence[Any],
    good: Sequence[Any],
    course: Course,
    choice: Choice,
    ctx: Context,
) -> None:
    # The update before a bad loss is what broke it: the weights from before that update are the last good ones.
    import torch

    course.losses, course.tokens = course.losses[:-1], course.tokens[:-1]
    if not course.losses:
        raise ModelError(
            f"training failed: {course.stopped}, and no good step came before it; lower train.lr "
            f"(now {choice.lr:g}), set train.max_grad_norm, or check that the base model's own loss is finite"
        )
    with torch.no_grad():
        for kept, parameter in zip(good, parameters, strict=True):
            parameter.copy_(kept)
    ctx.log.warning(
        f"training stopped early: {course.stopped}; the adapter is that of step {len(course.losses)}. "
        f"Lower train.lr (now {choice.lr:g}) or raise train.warmup"
    )
