"""The figures of a training, step by step, for the trackers that the recipe names, through accelerate's own."""

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
"""The package that each tracker needs: the name that Python imports, and pip's."""
FOLDER: Final = "trackers"
_PROJECT: Final = "nfilter"


class Figures(Protocol):
    """Takes the figures of optimiser step ``step``, from 1."""

    def __call__(self, step: int, figures: Mapping[str, float]) -> None: ...


@contextmanager
def tracked(
    names: Sequence[Tracker], out: Path, ctx: Context, settings: Mapping[str, JSON]
) -> Iterator[Figures]:
    """Yield what passes figures on to the trackers; nothing is done where none is named.

    Files of trackers that keep any are in ``trackers`` in the folder ``out``. A run of a tracker has the name of the
    stage, and ``settings``. Where a tracker fails later, a warning says so, and training goes on without trackers.

    Raises:
        ModelError: where a tracker does not start.
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
        except Exception as error:  # noqa: BLE001 (a tracker's own, of any kind)
            failed.append(error)
            ctx.log.warning(
                f"{ctx.stage}: {_list(names)} took no figures of step {step} ({type(error).__name__}: {error}); "
                "training goes on without"
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
    # What a tracker takes as a setting is a text, a number or a flag.
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
            f"train.trackers: {_list(names)} did not start ({type(error).__name__}: {error}); mend that, or leave "
            "train.trackers out"
        ) from error
    return accelerator


def _list(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
