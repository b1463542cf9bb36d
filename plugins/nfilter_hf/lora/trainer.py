"""``hf.lora``: fine-tunes a local model on weighted tokens and leaves a LoRA adapter in PEFT format."""

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
from nfilter_hf.lora.adapter import (
    base_path,
    fingerprint,
    save_adapter,
    write_json,
)
from nfilter_hf.lora.checkpoint import Checkpoints, Course, course_of
from nfilter_hf.lora.choice import Choice, choose, foretell, hidden_size, told, too_few
from nfilter_hf.lora.data import TrainRow, rows_from_arrays, rows_to_arrays, training_row
from nfilter_hf.lora.distributed import Parcel, current, leading, serve
from nfilter_hf.lora.handover import save_card, save_tokenizer
from nfilter_hf.lora.loop import Task, train_adapter
from nfilter_hf.lora.settings import LoraSettings
from nfilter_hf.lora.trackers import PACKAGES, tracked
from nfilter_hf.spread import Backends

TRAIN: Final = "train"


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
        """It needs the module of one model and its trackers' packages, and trains with an online loss where one is named."""
        need = ModelNeed(model=config.model, capability=LendsModule, field="model")
        packages = {PACKAGES[name]: PACKAGES[name] for name in config.trackers}
        return Contract(needs=(need,), online_loss=True, packages=packages)

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
        model: Model,
        out: Path,
        ctx: Context,
        start: ModelRef | None = None,
    ) -> TrainingResult:
        """Train on ``samples`` and write the adapter and ``training.json`` to ``out``.

        What the settings leave open is chosen first (``choice.py``), and logged; under 20 steps there is a warning.

        A checkpoint that an equal training left in ``out`` is gone on from, and removed when training ends. Samples without a weighted token are left out; NothingLeftError where all are. A loss that is not finite
        ends training with the adapter of the last good step and a warning, or in a ModelError where there is none.
        """
        began = time.perf_counter()
        rows = _rows(samples, scored=ctx.loss is not None)
        with model.lend() as lent:
            module = lent.module
            base = fingerprint(model, module)
            if start is not None and start.base != base:
                raise ModelError(
                    f"the adapter {start.path} was trained on another base than {self._config.model!r}: start from an "
                    f"adapter of this base, or train without a start"
                )
            reason = getattr(lent, "format_reason", None)
            if reason:
                ctx.log.info(f"{ctx.stage}: the base's weights are in {reason}")
            task = self._task(rows, module, ctx)
            self._tell(task, lent, base, ctx)
            checkpoints = self._checkpoints(task, module, out, ctx, base=base, start=start)
            digests: list[str] = []
            settings = {**self._config.model_dump(mode="json"), **task.choice.settings()}
            with tracked(self._config.trackers, out, ctx, settings) as figures:
                course = train_adapter(
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
        seconds = course.seconds + time.perf_counter() - began
        result = TrainingResult(
            ref=ModelRef(path=str(out), kind="adapter", base=base, digest=digest),
            steps=len(course.losses),
            tokens=sum(course.tokens),
            losses=tuple(course.losses),
            seconds=seconds,
            resumed_from=course.resumed_from,
            settings=task.choice.settings(),
        )
        facts |= {
            "start": start.digest if start else None,
            "samples_without_weight": len(samples) - len(rows),
        }
        self._record(out, task, course, result, ctx, facts)
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
            f"({result.tokens} weighted tokens seen); loss {course.losses[0]:.4f} at first, {course.losses[-1]:.4f} at last"
        )
        return result

    def _task(self, rows: Sequence[TrainRow], module: Any, ctx: Context) -> Task:
        """What is trained; what was chosen is logged, and few steps are warned of."""
        hidden = hidden_size(module.config)
        choice = choose(self._config, len(rows), hidden, ctx.rows)
        if choice.open:
            ctx.log.info(f"{ctx.stage}: {told(choice, ctx.rows or len(rows), hidden)}")
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
        of = course_of(
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
        course: Course,
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
            "stopped": course.stopped,
            "resumed_from": course.resumed_from,
            "processes": current().size,
            "tokens": result.tokens,
            "losses": course.losses,
            "seconds": round(result.seconds, 3),
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in names},
                "cuda": torch.version.cuda,
            },
        }
        write_json(out / "training.json", {**record, **facts})

    def lead(self) -> AbstractContextManager[None]:
        """Share the work inside with the other processes of the launch, and send those home at the end."""
        return leading()

    def follow(self, site: Site, loss: TokenLoss | None) -> None:
        """In another process than the first: take part in each training, generation and scoring of the run."""
        backends = Backends(site)

        def train(values: dict[str, Any], tensors: dict[str, Any]) -> None:
            self._join(values, tensors, backends.of(values["model"]), loss)

        serve({TRAIN: train, **backends.handlers()})

    def _tell(self, task: Task, lent: Any, base: str, ctx: Context) -> None:
        """Call the other processes of the launch to the training."""
        import torch

        launch = current()
        if launch.size == 1:
            return
        model = getattr(lent, "told", None)
        if model is None:
            raise ModelError(
                f"{task.config.model!r} cannot be trained by {launch.size} processes: its backend is not hf"
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
        launch.tell(TRAIN, values, {name: torch.from_numpy(a) for name, a in arrays.items()})
        launch.together(lambda: ({}, {}))

    def _join(
        self, values: dict[str, Any], tensors: dict[str, Any], model: Any, loss: TokenLoss | None
    ) -> None:
        """Take part in a training that rank 0 began."""
        with ExitStack() as scopes:
            lent: list[Any] = []

            def ready() -> Parcel:
                if values["settings"] != self._config.model_dump(mode="json"):
                    raise ModelError(
                        "the first process trains with other settings: start every process with the same recipe and --set"
                    )
                lent.append(scopes.enter_context(model.lend()))
                base = fingerprint(model, lent[0].module)
                if base != values["base"]:
                    raise ModelError(
                        f"the first process trains another base than {self._config.model!r} is here ({base}): give "
                        "every machine the same weights, in the same number format"
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
            aside = _Aside(loss if values["online"] else None, task.seed)
            train_adapter(task, lent[0].module, cast("Context", aside))


def _rows(samples: Sequence[TokenSample], *, scored: bool) -> list[TrainRow]:
    found = (training_row(sample, scored=scored) for sample in samples)
    rows = [row for row in found if row is not None]
    if not rows:
        raise NothingLeftError(
            f"none of {len(samples)} samples has a token left to train on: every weight is 0; see dropped.jsonl "
            "and the token stages' reasons, and loosen the stage that drops or masks most"
        )
    return rows


class _Mute:
    """A log and a bar of a process whose messages rank 0 gives too."""

    def info(self, text: str) -> None:
        pass

    def warning(self, text: str) -> None:
        pass

    def advance(self, steps: int = 1) -> None:
        pass


@dataclass(frozen=True, slots=True)
class _Aside:
    """What training may reach of its context in another process than the first."""

    loss: TokenLoss | None
    seed: int
    stage: str = ""
    rows: int | None = None
    log: _Mute = field(default_factory=_Mute)

    def progress(self, *_: Any) -> AbstractContextManager[_Mute]:
        return nullcontext(self.log)
