"""``hf.lora``: fine-tunes a local model on weighted tokens and leaves a LoRA adapter in PEFT format."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from nfilter import (
    Context,
    Contract,
    Foretold,
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
from nfilter_hf.lora.adapter import (
    adapted,
    base_path,
    fingerprint,
    save_adapter,
    seeded,
    write_json,
)
from nfilter_hf.lora.checkpoint import Checkpoints, course_of
from nfilter_hf.lora.choice import choose, foretell, hidden_size, told, too_few
from nfilter_hf.lora.data import training_row
from nfilter_hf.lora.loop import run_course
from nfilter_hf.lora.settings import LoraSettings
from nfilter_hf.lora_follow import follow
from nfilter_hf.lora_ranks import crew, leading


class LoraTrainer:
    """Trains a LoRA adapter (Hu et al., 2021) on the weighted response tokens of encoded samples.

    The loss of an optimiser step is exact: one normaliser for the whole step, so that without dropout the split
    into forward passes, or over the processes of a launch, changes nothing but floating point. On a CPU, equal seeds
    give equal bytes, also where training was killed and went on from a checkpoint.

    ``loss: dft`` (or another online loss) weighs every token of a step by what the model says of it at that step, on
    top of the weights that the tokens came with. ``loss_norm`` keeps its meaning; what it divides by is the sum of
    the weights from before, unless the online loss asks for a mean over its own (``mean_over``).
    """

    name: ClassVar[str] = "hf.lora"
    also_known: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(
            ("lora", "sft", "peft", "trl", "trl.sft", "axolotl", "llamafactory", "unsloth", "transformers", "trainer", "hf"),
            "{use: hf.lora, model: student}",
        ),
        "qlora": "{use: hf.lora, model: student}, and load_in_4bit: true for the model",
    }  # fmt: skip
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

    @classmethod
    def fits_rows(cls, config: LoraSettings) -> bool:
        """Whether the batch size is chosen, from the rows of the run."""
        return config.batch_size == "auto"

    @classmethod
    def foretold(
        cls, config: LoraSettings, model_config: Any, site: Site, rows: int | None
    ) -> Foretold:
        """What is chosen, and whether that makes too few steps, from the model's config.json alone."""
        from nfilter_hf.memory import model_settings

        hidden = hidden_size(model_settings(model_config, site) or {})
        return foretell(config, rows, hidden)

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

        What the settings leave open is chosen first (``choice.py``), and logged; under 20 steps there is a warning.

        A checkpoint that an equal training left in ``out`` is gone on from, and removed when training ends. Samples without a weighted token are left out; NothingLeftError where all are. A loss that is not finite
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
            base = fingerprint(model, module)
            if start is not None and start.base != base:
                raise ModelError(
                    f"the adapter {start.path} was trained on another base than {config.model!r}: start from an "
                    f"adapter of this base, or train without a start"
                )
            shared = crew()
            reason = getattr(lent, "format_reason", None)
            if reason:
                ctx.log.info(f"{ctx.stage}: the base's weights are in {reason}")
            hidden = hidden_size(module.config)
            choice = choose(config, len(rows), hidden, ctx.rows)
            if choice.open:
                ctx.log.info(f"{ctx.stage}: {told(choice, ctx.rows or len(rows), hidden)}")
            few = too_few(config, choice, len(rows))
            if few is not None:
                ctx.log.warning(f"{ctx.stage}: {few}")
            with adapted(module, config, start) as wrapped:
                of = course_of(
                    rows, config, ctx, base=base, start=start.digest if start else None,
                    steps=choice.steps, chosen=choice.settings() if choice.open else {}, device=next(module.parameters()).device.type, processes=shared.size,
                )  # fmt: skip
                checkpoints = Checkpoints(out, of, ctx)
                job = {
                    "settings": config.model_dump(mode="json"),
                    "seed": ctx.seed,
                    "base": base,
                    "online": online is not None,
                    "batch_size": choice.batch_size,
                }
                course = run_course(
                    rows, module, wrapped, choice, config, ctx, checkpoints, shared, job
                )
                digest = save_adapter(wrapped, out, base_path(module))
            device = str(next(module.parameters()).device)
            dtype = str(module.dtype).removeprefix("torch.")
        seconds = course.seconds + time.perf_counter() - began
        result = TrainingResult(
            ref=ModelRef(path=str(out), kind="adapter", base=base, digest=digest),
            steps=len(course.losses),
            tokens=sum(course.tokens),
            losses=tuple(course.losses),
            seconds=seconds,
            resumed_from=course.resumed_from,
            settings=choice.settings(),
        )
        write_json(
            out / "training.json",
            {
                "trainer": self.name,
                "config": {**config.model_dump(mode="json"), **choice.settings()},
                "chosen": list(choice.open),
                "online_loss": online.name if online is not None else None,
                "seed": ctx.seed,
                "base": base,
                "start": start.digest if start else None,
                "digest": digest,
                "samples": len(rows),
                "samples_without_weight": len(samples) - len(rows),
                "steps": result.steps,
                "steps_planned": choice.steps,
                "stopped": course.stopped,
                "resumed_from": course.resumed_from,
                "processes": shared.size,
                "tokens": result.tokens,
                "losses": course.losses,
                "seconds": round(seconds, 3),
                "device": device,
                "dtype": dtype,
                "dtype_reason": reason,
                "versions": {
                    "python": platform.python_version(),
                    **{name: version(name) for name in ("torch", "transformers", "peft", "numpy")},
                    "cuda": torch.version.cuda,
                },
            },
        )
        checkpoints.remove()
        ctx.log.info(
            f"{ctx.stage}: {result.steps} optimiser steps on {len(rows)} samples in {seconds:.1f} s "
            f"({result.tokens} weighted tokens seen); loss {course.losses[0]:.4f} at first, {course.losses[-1]:.4f} at last"
        )
        return result

    def lead(self) -> AbstractContextManager[None]:
        """Share the trainings inside with the other processes of the launch, and send those home at the end."""
        return leading()

    def follow(self, model: Any, ctx: Context) -> None:
        """Help the launch's first process with its trainings until the run is over."""
        follow(self._config, model, ctx.loss)
