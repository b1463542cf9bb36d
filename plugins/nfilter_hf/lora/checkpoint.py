"""Where a training stands, on disk: what a run that was killed goes on from.

One file, ``checkpoint/training.safetensors`` in the adapter's folder, replaced as a whole. Its tensors are the
adapter, the adapter before the last step, the optimiser's state and the random generators' states; its metadata holds,
as JSON, how far training came and what decides its course.
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
class Course:
    """How far training has come. ``losses`` has one finite mean a step that was kept, ``tokens`` its predictions.

    ``seconds`` are those of the processes before this one; ``resumed_from`` is the step that this one began behind.
    """

    losses: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    seconds: float = 0.0
    resumed_from: int | None = None
    stopped: str | None = None


def course_of(
    rows: Sequence[TrainRow], config: LoraSettings, ctx: Context, **more: Any
) -> dict[str, str]:
    """What decides a training's course, by a name for people; ``more`` are the base, the start and the like."""
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
    """SHA-256 over all that training reads of its rows, in their order."""
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
    """The checkpoint of one training: kept every so many steps, gone on from, removed."""

    def __init__(self, out: Path, of: Mapping[str, str], ctx: Context) -> None:
        """``of`` is what decides the course (``course_of``): a checkpoint of another one is not gone on from."""
        self._folder = out / FOLDER
        self._of = dict(of)
        self._ctx = ctx
        self._warned = False

    def keep(self, course: Course, state: TrainingState) -> None:
        """Replace the checkpoint. A disk that is full costs a warning, not the training."""
        done = {key: value for key, value in asdict(course).items() if key != "stopped"}
        try:
            metadata = {"of": json.dumps(self._of), "course": json.dumps(done, allow_nan=False)}
            tensors = state.tensors()
            seal = _seal(metadata["of"], metadata["course"], tensors)
            save_tensors(tensors, self._folder / FILE, {**metadata, "seal": seal})
        except (OSError, StoreError) as error:
            if not self._warned:
                self._warned = True
                self._ctx.log.warning(
                    f"{self._ctx.stage}: no checkpoint can be kept in {self._folder} ({error.__cause__ or error}); training goes on, and a "
                    "kill would cost what is not kept"
                )

    def go_on(self, state: TrainingState) -> Course:
        """Put the checkpoint's values into ``state`` and say how far it came; a new course where none fits."""
        from safetensors import SafetensorError, safe_open

        file = self._folder / FILE
        if not file.is_file():
            return Course()
        try:
            with safe_open(file, framework="pt") as found:
                metadata = found.metadata() or {}
                of = json.loads(metadata["of"])
                changed = sorted(
                    name for name in {*of, *self._of} if of.get(name) != self._of.get(name)
                )
                if changed:
                    self._ctx.log.info(
                        f"{self._ctx.stage}: the checkpoint of step {len(json.loads(metadata['course'])['losses'])} is of "
                        f"another training (changed: {', '.join(changed)}); training starts from the beginning"
                    )
                    return Course()
                course = Course(**json.loads(metadata["course"]))
                tensors = {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118 (no mapping)
                if metadata["seal"] != _seal(metadata["of"], metadata["course"], tensors):
                    raise ValueError("it holds other values than were written")
            state.restore(tensors)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            self._ctx.log.warning(
                f"{self._ctx.stage}: {file} cannot be read ({error}); training starts from the beginning"
            )
            return Course()
        course.resumed_from = len(course.losses)
        self._ctx.log.info(f"{self._ctx.stage}: training goes on behind step {course.resumed_from}")
        return course

    def remove(self) -> None:
        """Remove the checkpoint: the training is over."""
        shutil.rmtree(self._folder, ignore_errors=True)


def shared(course: Course, state: TrainingState, launch: Launch) -> Course:
    """Give rank 0's course and state, new or from a checkpoint, to the other processes of a launch."""
    if launch.size == 1:
        return course
    values, tensors = launch.share(lambda: (asdict(course), state.tensors()))
    if launch.leads:
        return course
    state.restore(tensors, generators=False)
    return Course(**values)


def _seal(of: str, course: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over all that a checkpoint holds."""
    import torch

    hasher = hashlib.sha256(json.dumps([of, course]).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hasher.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()
