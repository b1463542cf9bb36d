"""The figures of each optimiser step, sent to the trackers of the recipe through accelerate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from nfilter import JSON, Context, ModelError

if TYPE_CHECKING:
    from accelerate import Accelerator

Tracker = Literal["tensorboard", "wandb", "mlflow"]

PACKAGES: Final[Mapping[Tracker, str]] = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
}
"""The package of each tracker: its import name, equal to its name for pip."""
FOLDER: Final = "trackers"
_PROJECT: Final = "nfilter"


class Figures(Protocol):
    """Receives the figures of optimiser step ``step``, from 1."""

    def __call__(self, step: int, figures: Mapping[str, float]) -> None: ...


@contextmanager
def tracked(
    names: Sequence[Tracker], out: Path, ctx: Context, settings: Mapping[str, JSON]
) -> Iterator[Figures]:
    """Yield a function that sends figures to the trackers; without ``names`` it does nothing.

    Trackers write files to the folder ``trackers`` in ``out``. A tracker's run has the name of the stage, and
    ``settings``. If a tracker fails later, a warning is logged, and training continues without trackers.

    Raises:
        ModelError: a tracker does not start.
    """
    if not names:
        yield lambda step, figures: None  # noqa: ARG005
        return
    accelerator = _started(names, out / FOLDER, ctx.stage, settings)
    failed: list[Exception] = []

    def log(step: int, figures: Mapping[str, float]) -> None:
        if failed:
            return
        try:
            accelerator.log(dict(figures), step=step)
        except Exception as error:  # noqa: BLE001 (a tracker may raise any exception)
            failed.append(error)
            ctx.log.warning(
                f"{ctx.stage}: {', '.join(names)} failed at step {step} ({type(error).__name__}: {error}); "
                "training continues without trackers"
            )

    try:
        yield log
    finally:
        accelerator.end_training()


def _started(
    names: Sequence[Tracker], folder: Path, stage: str, settings: Mapping[str, JSON]
) -> Accelerator:
    import torch
    from accelerate import Accelerator

    folder.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {
        "wandb": {"name": stage, "dir": str(folder)},
        "mlflow": {"run_name": stage},
    }
    # A tracker accepts texts, numbers and booleans as settings.
    config = {
        name: value if isinstance(value, str | int | float | bool) else str(value)
        for name, value in settings.items()
    }
    try:
        accelerator = Accelerator(
            cpu=not torch.cuda.is_available(), log_with=list(names), project_dir=str(folder)
        )
        accelerator.init_trackers(_PROJECT, config=config, init_kwargs=options)
    except Exception as error:
        raise ModelError(
            f"train.trackers: {', '.join(names)} did not start ({type(error).__name__}: {error}); correct that, or remove "
            "train.trackers"
        ) from error
    return accelerator
