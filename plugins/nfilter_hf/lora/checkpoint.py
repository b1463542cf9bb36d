"""The checkpoint from which an interrupted training resumes.

One file, ``checkpoint/training.safetensors`` in the adapter's folder, replaced atomically. Its tensors are the
adapter, the adapter before the last step, the optimiser's state and the states of the random generators; its metadata
holds, as JSON, the progress of training and everything that determines its result.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nfilter import Context, StageConfig, StoreError
from nfilter_hf.lora.data import TrainRow
from nfilter_hf.lora.distributed import Launch
from nfilter_hf.lora.settings import LoraSettings
from nfilter_hf.lora.update import TrainingState
from nfilter_hf.tensor_files import save_tensors

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = "checkpoint"
FILE = "training.safetensors"
_PACKAGES = ("torch", "transformers", "peft")


@dataclass(slots=True)
class TrainingProgress:
    """The progress of a training.

    ``losses`` has the finite mean loss of each completed step, ``tokens`` the number of its predictions. ``seconds``
    is the time of earlier processes; ``resumed_from`` is the number of steps before this process; ``stopped`` is the
    reason of an early stop. ``seconds_per_step`` is the mean time of the steps of this process after its first one.
    """

    losses: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    seconds: float = 0.0
    resumed_from: int | None = None
    stopped: str | None = None
    seconds_per_step: float | None = None


def training_identity(
    rows: Sequence[TrainRow], config: LoraSettings, ctx: Context, **more: Any
) -> dict[str, str]:
    """Return everything that determines a training, by a readable name; ``more`` has the base, the start and so on."""
    settings = config.model_dump(mode="json", exclude={"checkpoint_every", "trackers"})
    loss = ctx.loss
    if loss is not None:
        own = getattr(loss, "config", None)
        dump = own.model_dump(mode="json") if isinstance(own, StageConfig) else None
        settings["loss"] = [loss.name, loss.mean_over, dump]
    return {
        "data": rows_digest(rows),
        "settings": json.dumps(settings, sort_keys=True),
        "seed": str(ctx.seed),
        "versions": " ".join(f"{name} {version(name)}" for name in _PACKAGES),
        **{name: str(value) for name, value in more.items()},
    }


def rows_digest(rows: Sequence[TrainRow]) -> str:
    """Return the SHA-256 of all arrays of the rows, in order."""
    hasher = hashlib.sha256()
    for row in rows:
        arrays: dict[str, Any] = {
            "inputs": row.inputs,
            "positions": row.positions,
            "labels": row.labels,
            "weights": row.weights,
            **{f"score {name}": row.scores[name] for name in sorted(row.scores)},
        }
        for name, values in arrays.items():
            hasher.update(f"{name} {values.dtype} {len(values)}\n".encode())
            hasher.update(np.ascontiguousarray(values).tobytes())
    return hasher.hexdigest()


class Checkpoints:
    """The checkpoint of one training: saved at intervals, resumed from, removed."""

    def __init__(self, out: Path, of: Mapping[str, str], ctx: Context) -> None:
        """``of`` determines the training (``training_identity``): a checkpoint of another training is ignored."""
        self._folder = out / FOLDER
        self._of = dict(of)
        self._ctx = ctx
        self._warned = False

    def save(self, progress: TrainingProgress, state: TrainingState) -> None:
        """Replace the checkpoint. A failed write is logged as a warning, and training continues."""
        done = {key: value for key, value in asdict(progress).items() if key != "stopped"}
        try:
            metadata = {"of": json.dumps(self._of), "course": json.dumps(done, allow_nan=False)}
            tensors = state.tensors()
            seal = _seal(metadata["of"], metadata["course"], tensors)
            save_tensors(tensors, self._folder / FILE, {**metadata, "seal": seal})
        except (OSError, StoreError) as error:
            if not self._warned:
                self._warned = True
                self._ctx.log.warning(
                    f"{self._ctx.stage}: no checkpoint can be written to {self._folder} ({error.__cause__ or error}); training continues, and "
                    "an interruption loses the steps since the last checkpoint"
                )

    def resume(self, state: TrainingState) -> TrainingProgress:
        """Copy the checkpoint's values into ``state`` and return its progress; new progress if no checkpoint matches."""
        from safetensors import SafetensorError, safe_open

        file = self._folder / FILE
        if not file.is_file():
            return TrainingProgress()
        try:
            with safe_open(file, framework="pt") as found:
                metadata = found.metadata() or {}
                of = json.loads(metadata["of"])
                changed = sorted(
                    name for name in {*of, *self._of} if of.get(name) != self._of.get(name)
                )
                if changed:
                    self._ctx.log.info(
                        f"{self._ctx.stage}: the checkpoint of step {len(json.loads(metadata['course'])['losses'])} belongs to "
                        f"another training (changed: {', '.join(changed)}); training starts from the beginning"
                    )
                    return TrainingProgress()
                progress = TrainingProgress(**json.loads(metadata["course"]))
                tensors = {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118 (no mapping)
                if metadata["seal"] != _seal(metadata["of"], metadata["course"], tensors):
                    raise ValueError("its values differ from those written")
            state.restore(tensors)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            self._ctx.log.warning(
                f"{self._ctx.stage}: {file} cannot be read ({error}); training starts from the beginning"
            )
            return TrainingProgress()
        progress.resumed_from = len(progress.losses)
        self._ctx.log.info(
            f"{self._ctx.stage}: training resumes after step {progress.resumed_from}"
        )
        return progress

    def remove(self) -> None:
        """Remove the checkpoint after the end of training."""
        shutil.rmtree(self._folder, ignore_errors=True)


def shared(progress: TrainingProgress, state: TrainingState, launch: Launch) -> TrainingProgress:
    """Copy the progress and state of rank 0 to the other processes of a launch."""
    if launch.size == 1:
        return progress
    values, tensors = launch.share(lambda: (asdict(progress), state.tensors()))
    if launch.leads:
        return progress
    state.restore(tensors, generators=False)
    return TrainingProgress(**values)


def _seal(of: str, course: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a checkpoint's metadata and tensors."""
    import torch

    hasher = hashlib.sha256(json.dumps([of, course]).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hasher.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()
