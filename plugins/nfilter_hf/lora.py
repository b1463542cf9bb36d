"""``hf.lora``: fine-tunes a local model on weighted tokens and leaves a LoRA adapter in PEFT format."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from nfilter import (
    Context,
    Contract,
    LendsModule,
    ModelError,
    ModelNeed,
    ModelRef,
    NothingLeftError,
    Site,
    StageConfig,
    TokenSample,
    TrainingResult,
)
from nfilter_hf.batches_train import TrainRow, step_count, step_order, training_row
from nfilter_hf.lora_adapter import (
    adapter_parameters,
    attached,
    base_path,
    load_adapter,
    save_adapter,
    write_json,
)
from nfilter_hf.lora_base import checkpointing, quantised_ready, seeded
from nfilter_hf.lora_settings import LoraSettings, lr_factor
from nfilter_hf.lora_step import StepLoss


@dataclass(slots=True)
class _Course:
    """How far training has come. ``losses`` has one finite mean a step that was kept."""

    losses: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    stopped: str | None = None


class LoraTrainer:
    """Trains a LoRA adapter (Hu et al., 2021) on the weighted response tokens of encoded samples.

    The loss of an optimiser step is exact: one normaliser for the whole step, so that without dropout the split
    into forward passes changes nothing but floating point. On a CPU, equal seeds give equal bytes.

    ``loss: dft`` (or another online loss) weighs every token of a step by what the model says of it at that step, on
    top of the weights that the tokens came with. ``loss_norm`` keeps its meaning; what it divides by is the sum of
    the weights from before, unless the online loss asks for a mean over its own (``mean_over``).
    """

    name: ClassVar[str] = "hf.lora"
    Config: ClassVar[type[StageConfig]] = LoraSettings

    @classmethod
    def contract(cls, config: LoraSettings) -> Contract:
        """It needs the module of one model, touches no note, and trains with an online loss where one is named."""
        need = ModelNeed(model=config.model, capability=LendsModule, field="model")
        return Contract(needs=(need,), online_loss=True)

    @classmethod
    def memory(cls, config: LoraSettings, model_config: Any, site: Site) -> Mapping[str, float]:
        """An estimate in bytes by part, from the model's config.json alone; empty where it cannot be known."""
        from nfilter_hf.memory import training_memory

        return training_memory(config, model_config, site)

    def __init__(self, config: LoraSettings) -> None:
        self._config = config

    def train(
        self,
        samples: Sequence[TokenSample],
        model: Any,
        out: Path,
        ctx: Context,
        start: ModelRef | None = None,
    ) -> TrainingResult:
        """Train on ``samples`` and write the adapter and ``training.json`` to ``out``.

        Samples without a weighted token are left out; NothingLeftError where all are. A loss that is not finite
        ends training with the adapter of the last good step and a warning, or in a ModelError where there is none.
        """
        import torch

        config = self._config
        began = time.perf_counter()
        online = ctx.loss
        found = (training_row(sample, scored=online is not None) for sample in samples)
        rows = [row for row in found if row is not None]
        if not rows:
            raise NothingLeftError(
                f"none of {len(samples)} samples has a token left to train on: every weight is 0; see dropped.jsonl "
                "and the token stages' reasons, and loosen the stage that drops or masks most"
            )
        with model.lend() as lent, seeded(lent.module, ctx.seed):
            module = lent.module
            base = _fingerprint(model, module)
            if start is not None and start.base != base:
                raise ModelError(
                    f"the adapter {start.path} was trained on another base than {config.model!r}: start from an "
                    f"adapter of this base, or train without a start"
                )
            with (
                quantised_ready(module),
                attached(
                    module,
                    rank=config.rank,
                    alpha=config.alpha,
                    dropout=config.dropout,
                    targets=config.target_modules,
                ) as wrapped,
                checkpointing(module, on=config.gradient_checkpointing),
            ):
                if start is not None:
                    load_adapter(wrapped, start, rank=config.rank, alpha=config.alpha)
                steps = step_count(len(rows), config.batch_size, config.epochs, config.max_steps)
                course = self._run(rows, module, wrapped, steps, ctx)
                digest = save_adapter(wrapped, out, base_path(module))
            device = str(next(module.parameters()).device)
        seconds = time.perf_counter() - began
        result = TrainingResult(
            ref=ModelRef(path=str(out), kind="adapter", base=base, digest=digest),
            steps=len(course.losses),
            tokens=sum(course.tokens),
            losses=tuple(course.losses),
            seconds=seconds,
        )
        write_json(
            out / "training.json",
            {
                "trainer": self.name,
                "config": config.model_dump(mode="json"),
                "online_loss": online.name if online is not None else None,
                "seed": ctx.seed,
                "base": base,
                "start": start.digest if start else None,
                "digest": digest,
                "samples": len(rows),
                "samples_without_weight": len(samples) - len(rows),
                "steps": result.steps,
                "steps_planned": steps,
                "stopped": course.stopped,
                "tokens": result.tokens,
                "losses": course.losses,
                "seconds": round(seconds, 3),
                "device": device,
                "versions": {
                    "python": platform.python_version(),
                    **{name: version(name) for name in ("torch", "transformers", "peft", "numpy")},
                    "cuda": torch.version.cuda,
                },
            },
        )
        ctx.log.info(
            f"{ctx.stage}: {result.steps} optimiser steps on {len(rows)} samples in {seconds:.1f} s "
            f"({result.tokens} weighted tokens seen); loss {course.losses[0]:.4f} at first, {course.losses[-1]:.4f} at last"
        )
        return result

    def _run(
        self, rows: Sequence[TrainRow], module: Any, wrapped: Any, steps: int, ctx: Context
    ) -> _Course:
        import torch

        config = self._config
        parameters = adapter_parameters(wrapped)
        device = parameters[0].device
        optimizer = torch.optim.AdamW(
            parameters,
            lr=config.lr,
            weight_decay=config.weight_decay,
            fused=device.type in ("cpu", "cuda"),
        )
        step_loss = StepLoss(module, config, device, ctx)
        step_loss.check_head(rows[0])
        good = [parameter.detach().clone() for parameter in parameters]
        course = _Course()
        wrapped.train()
        try:
            with ctx.progress(steps, "training") as bar:
                for step, members in enumerate(
                    step_order(len(rows), config.batch_size, steps, ctx.seed)
                ):
                    factor = lr_factor(step, steps, config.warmup, config.schedule)
                    for group in optimizer.param_groups:
                        group["lr"] = config.lr * factor
                    optimizer.zero_grad()
                    loss = step_loss([rows[i] for i in members], step)
                    norm = torch.nn.utils.clip_grad_norm_(
                        parameters, config.max_grad_norm or math.inf
                    )
                    if not math.isfinite(loss + float(norm)):
                        course.stopped = (
                            f"the loss or its gradient was not finite at step {step + 1}"
                        )
                        break
                    with torch.no_grad():
                        for kept, parameter in zip(good, parameters, strict=True):
                            kept.copy_(parameter)
                    optimizer.step()
                    course.losses.append(loss)
                    course.tokens.append(sum(len(rows[i].labels) for i in members))
                    bar.advance()
            if course.stopped is None and not all(bool(p.isfinite().all()) for p in parameters):
                course.stopped = "the last step left weights that are not finite"
            if course.stopped is not None:
                self._go_back(parameters, good, course, ctx)
        finally:
            wrapped.eval()
        return course

    def _go_back(
        self, parameters: Sequence[Any], good: Sequence[Any], course: _Course, ctx: Context
    ) -> None:
        # The update before a bad loss is what broke it: the weights from before that update are the last good ones.
        import torch

        course.losses, course.tokens = course.losses[:-1], course.tokens[:-1]
        if not course.losses:
            raise ModelError(
                f"training failed: {course.stopped}, and no good step came before it; lower train.lr "
                f"(now {self._config.lr:g}), set train.max_grad_norm, or check that the base model's own loss is finite"
            )
        with torch.no_grad():
            for kept, parameter in zip(good, parameters, strict=True):
                parameter.copy_(kept)
        ctx.log.warning(
            f"training stopped early: {course.stopped}; the adapter is that of step {len(course.losses)}. "
            f"Lower train.lr (now {self._config.lr:g}) or raise train.warmup"
        )


def _fingerprint(model: Any, module: Any) -> str:
    # A wrapper around a backend may hide everything but the capabilities.
    get = getattr(model, "fingerprint", None)
    return str(get()) if callable(get) else str(getattr(module, "name_or_path", "") or "unknown")
