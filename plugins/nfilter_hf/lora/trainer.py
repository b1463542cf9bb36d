"""``hf.lora``: fine-tunes a local model on weighted tokens and writes a LoRA adapter in PEFT format."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Final, cast

from nfilter import (
    Context,
    Contract,
    Foretold,
    LendsModule,
    Model,
    ModelError,
    ModelNeed,
    ModelRef,
    NothingLeftError,
    Site,
    StageConfig,
    TokenLoss,
    TokenSample,
    TrainingResult,
)
from nfilter_hf.lora.adapter import base_path, fingerprint, save_adapter, write_json
from nfilter_hf.lora.checkpoint import Checkpoints, TrainingProgress, training_identity
from nfilter_hf.lora.choice import Choice, choice_text, choose, foretell, hidden_size, too_few
from nfilter_hf.lora.data import TrainRow, rows_from_arrays, rows_to_arrays, training_row
from nfilter_hf.lora.distributed import Payload, current, leading, serve
from nfilter_hf.lora.handover import save_card, save_tokenizer
from nfilter_hf.lora.loop import Task, train_adapter
from nfilter_hf.lora.settings import LoraSettings
from nfilter_hf.lora.trackers import PACKAGES, tracked
from nfilter_hf.spread import Backends

TRAIN: Final = "train"


class LoraTrainer:
    """Trains a LoRA adapter (Hu et al., 2021) on the weighted response tokens of encoded samples.

    The loss of an optimiser step has one normaliser for the whole step, so without dropout the split into forward
    passes, or over the processes of a launch, changes only floating-point rounding. On a CPU, equal seeds give equal
    bytes, also for a training that was killed and resumed from a checkpoint.

    ``loss: dft`` (or another online loss) multiplies the weight of each token by a weight computed from the model's
    logits at that step. ``loss_norm`` is unchanged; it divides by the sum of the weights before that, unless the
    online loss averages over its own weights (``mean_over``). A penalty of the online loss (``AddsPenalty``) compares with
    the base without any adapter, also if training starts from one.
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
        """The module of one model and the packages of the trackers; an online loss is supported."""
        need = ModelNeed(model=config.model, capability=LendsModule, field="model")
        packages = {PACKAGES[name]: PACKAGES[name] for name in config.trackers}
        return Contract(needs=(need,), online_loss=True, online_penalty=True, packages=packages)

    @classmethod
    def memory(cls, config: LoraSettings, model_config: Any, site: Site) -> Mapping[str, float]:
        """Return an estimate in bytes by part, from the model's config.json; empty if it cannot be estimated."""
        from nfilter_hf.memory import training_memory

        return training_memory(config, model_config, site)

    @classmethod
    def fits_rows(cls, config: LoraSettings) -> bool:
        """Whether the batch size is chosen from the rows of the run."""
        return config.batch_size == "auto"

    @classmethod
    def foretold(
        cls, config: LoraSettings, model_config: Any, site: Site, rows: int | None
    ) -> Foretold:
        """Return the chosen settings and a warning of too few steps, from the model's config.json."""
        from nfilter_hf.memory import model_settings

        hidden = hidden_size(model_settings(model_config, site) or {})
        return foretell(config, rows, hidden)

    @classmethod
    def steps(cls, config: LoraSettings, samples: int, rows: int) -> int:
        """Return the optimiser steps of an arm with ``samples`` samples in a run of ``rows`` rows."""
        return choose(config, samples, None, rows).steps

    @classmethod
    def first_steps(cls, config: LoraSettings, rows: int, steps: int) -> LoraSettings:
        """Return ``config`` with the batch size for ``rows`` rows and ``steps`` steps, without trackers and checkpoints."""
        batch = choose(config, rows, None, rows).batch_size
        one_each = {"batch_size": batch, "epochs": steps, "max_steps": steps}
        return config.model_copy(update={**one_each, "trackers": (), "checkpoint_every": None})

    def __init__(self, config: LoraSettings) -> None:
        self._config = config

    def train(
        self,
        samples: Sequence[TokenSample],
        model: Model,
        out: Path,
        ctx: Context,
        start: ModelRef | None = None,
    ) -> TrainingResult:
        """Train on ``samples`` and write the adapter and ``training.json`` to ``out``.

        Settings that are ``auto`` are chosen (``choice.py``) and logged; fewer than 20 steps raise a warning. Training
        resumes from the checkpoint of an equal training in ``out`` and removes it at the end. Samples without a
        weighted token are skipped. A loss that is not finite ends training with the adapter of the last finite step
        and a warning.

        Raises:
            NothingLeftError: no sample has a weighted token.
            ModelError: ``start`` is of another base, no step had a finite loss, or memory is too small for one sample.
        """
        began = time.perf_counter()
        rows = _rows(samples, scored=ctx.loss is not None)
        with model.lend() as lent:
            module = lent.module
            base = fingerprint(model, module)
            if start is not None and start.base != base:
                raise ModelError(
                    f"the adapter {start.path} was trained on a base other than {self._config.model!r}: start from an "
                    f"adapter of this base, or from no adapter"
                )
            reason = getattr(lent, "format_reason", None)
            if reason:
                ctx.log.info(f"{ctx.stage}: the base's weights are in {reason}")
            task = self._task(rows, module, ctx)
            self._start_others(task, lent, base, ctx)
            checkpoints = self._checkpoints(task, module, out, ctx, base=base, start=start)
            digests: list[str] = []
            settings = {**self._config.model_dump(mode="json"), **task.choice.settings()}
            with tracked(self._config.trackers, out, ctx, settings) as figures:
                progress = train_adapter(
                    task,
                    module,
                    ctx,
                    start=start,
                    checkpoints=checkpoints,
                    figures=figures,
                    save=lambda wrapped: digests.append(
                        save_adapter(wrapped, out, base_path(module))
                    ),
                )
            if ctx.rows is not None:
                # The adapter of an arm is handed on; that of a stage is used here alone.
                save_tokenizer(getattr(lent, "tokenizer", None), out)
            facts = {
                "device": str(next(module.parameters()).device),
                "dtype": str(module.dtype).removeprefix("torch."),
                "dtype_reason": reason,
            }
        (digest,) = digests
        seconds = progress.seconds + time.perf_counter() - began
        result = TrainingResult(
            ref=ModelRef(path=str(out), kind="adapter", base=base, digest=digest),
            steps=len(progress.losses),
            tokens=sum(progress.tokens),
            losses=tuple(progress.losses),
            seconds=seconds,
            resumed_from=progress.resumed_from,
            settings=task.choice.settings(),
            seconds_per_step=progress.seconds_per_step,
        )
        facts |= {
            "start": start.digest if start else None,
            "samples_without_weight": len(samples) - len(rows),
        }
        self._record(out, task, progress, result, ctx, facts)
        if ctx.rows is not None:
            save_card(
                out,
                base_path(module),
                rank=self._config.rank,
                alpha=self._config.alpha,
                steps=result.steps,
                rows=len(rows),
            )
        checkpoints.remove()
        ctx.log.info(
            f"{ctx.stage}: {result.steps} optimiser steps on {len(rows)} samples in {seconds:.1f} s "
            f"({result.tokens} weighted tokens); loss {progress.losses[0]:.4f} at the first step, {progress.losses[-1]:.4f} at the last"
        )
        return result

    def _task(self, rows: Sequence[TrainRow], module: Any, ctx: Context) -> Task:
        """Return the task; log the chosen settings, and warn of too few steps."""
        hidden = hidden_size(module.config)
        choice = choose(self._config, len(rows), hidden, ctx.rows)
        if choice.open:
            ctx.log.info(f"{ctx.stage}: {choice_text(choice, ctx.rows or len(rows), hidden)}")
        few = too_few(self._config, choice, len(rows))
        if few is not None:
            ctx.log.warning(f"{ctx.stage}: {few}")
        return Task(rows, self._config, choice, ctx.seed)

    def _checkpoints(
        self,
        task: Task,
        module: Any,
        out: Path,
        ctx: Context,
        *,
        base: str,
        start: ModelRef | None,
    ) -> Checkpoints:
        of = training_identity(
            task.rows,
            task.config,
            ctx,
            base=base,
            start=start.digest if start else None,
            steps=task.choice.steps,
            chosen=task.choice.settings() if task.choice.open else {},
            device=next(module.parameters()).device.type,
            processes=current().size,
        )
        return Checkpoints(out, of, ctx)

    def _record(
        self,
        out: Path,
        task: Task,
        progress: TrainingProgress,
        result: TrainingResult,
        ctx: Context,
        facts: dict[str, Any],
    ) -> None:
        """Write ``training.json``."""
        import torch

        names = ("torch", "transformers", "peft", "accelerate", "numpy")
        record = {
            "trainer": self.name,
            "config": {**task.config.model_dump(mode="json"), **task.choice.settings()},
            "chosen": list(task.choice.open),
            "online_loss": ctx.loss.name if ctx.loss is not None else None,
            "seed": task.seed,
            "base": result.ref.base,
            "digest": result.ref.digest,
            "samples": len(task.rows),
            "steps": result.steps,
            "steps_planned": task.choice.steps,
            "stopped": progress.stopped,
            "resumed_from": progress.resumed_from,
            "processes": current().size,
            "tokens": result.tokens,
            "losses": progress.losses,
            "seconds": round(result.seconds, 3),
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in names},
                "cuda": torch.version.cuda,
            },
        }
        write_json(out / "training.json", {**record, **facts})

    def lead(self) -> AbstractContextManager[None]:
        """Share the work of the block with the other processes of the launch, and end them on exit."""
        return leading()

    def follow(self, site: Site, loss: TokenLoss | None) -> None:
        """In a process other than the first: run its part of each training, generation and scoring."""
        backends = Backends(site)

        def train(values: dict[str, Any], tensors: dict[str, Any]) -> None:
            self._join(values, tensors, backends.of(values["model"]), loss)

        serve({TRAIN: train, **backends.handlers()})

    def _start_others(self, task: Task, lent: Any, base: str, ctx: Context) -> None:
        """Send the training to the other processes of the launch, and wait until they are ready."""
        import torch

        launch = current()
        if launch.size == 1:
            return
        model = getattr(lent, "job_values", None)
        if model is None:
            raise ModelError(
                f"{task.config.model!r} cannot be trained by {launch.size} processes: only models of the backend hf can; use one process"
            )
        values = {
            "settings": task.config.model_dump(mode="json"),
            "choice": asdict(task.choice),
            "seed": task.seed,
            "base": base,
            "online": ctx.loss is not None,
            "model": model,
        }
        arrays = rows_to_arrays(task.rows)
        launch.send_job(TRAIN, values, {name: torch.from_numpy(a) for name, a in arrays.items()})
        launch.together(lambda: ({}, {}))

    def _join(
        self, values: dict[str, Any], tensors: dict[str, Any], model: Any, loss: TokenLoss | None
    ) -> None:
        """Run this process's part of a training that rank 0 started."""
        with ExitStack() as scopes:
            lent: list[Any] = []

            def ready() -> Payload:
                if values["settings"] != self._config.model_dump(mode="json"):
                    raise ModelError(
                        "the settings of the first process differ: start every process with the same recipe and --set"
                    )
                lent.append(scopes.enter_context(model.lend()))
                base = fingerprint(model, lent[0].module)
                if base != values["base"]:
                    raise ModelError(
                        f"the base of the first process differs from {self._config.model!r} in this process ({base}): give "
                        "every machine the same weights in the same number format"
                    )
                return {}, {}

            current().together(ready)
            choice = values["choice"]
            task = Task(
                rows_from_arrays({name: tensor.numpy() for name, tensor in tensors.items()}),
                self._config,
                Choice(**{**choice, "open": tuple(choice["open"])}),
                values["seed"],
            )
            context = _WorkerContext(loss if values["online"] else None, task.seed)
            train_adapter(task, lent[0].module, cast("Context", context))


def _rows(samples: Sequence[TokenSample], *, scored: bool) -> list[TrainRow]:
    found = (training_row(sample, scored=scored) for sample in samples)
    rows = [row for row in found if row is not None]
    if not rows:
        raise NothingLeftError(
            f"none of {len(samples)} samples has a token with a weight other than 0; see dropped.jsonl "
            "and the reasons of the token stages, and relax the stage that drops or masks most"
        )
    return rows


class _NoLog:
    """A log and progress bar that print nothing: rank 0 prints the same messages."""

    def info(self, text: str) -> None:
        pass

    def warning(self, text: str) -> None:
        pass

    def advance(self, steps: int = 1) -> None:
        pass


@dataclass(frozen=True, slots=True)
class _WorkerContext:
    """The part of a context that training uses in a process other than the first."""

    loss: TokenLoss | None
    seed: int
    stage: str = ""
    rows: int | None = None
    log: _NoLog = field(default_factory=_NoLog)

    def progress(self, *_: Any) -> AbstractContextManager[_NoLog]:
        return nullcontext(self.log)
