"""The hooks. They register classes or observe a run; none changes data, and only the recipe determines the order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pluggy

from nfilter.api.errors import NotInstalled
from nfilter.api.events import RunFinished, RunStarted, StageFinished

hookspec = pluggy.HookspecMarker("nfilter")
hookimpl = pluggy.HookimplMarker("nfilter")
"""The decorator of a function that implements a hook: ``@hookimpl`` above ``def nfilter_stages(): ...``."""


@hookspec
def nfilter_stages() -> Iterable[type]:  # type: ignore[empty-body]
    """Stage classes, over samples or over tokens; each has a ``name`` of the form ``plugin.stage``."""


@hookspec
def nfilter_backends() -> Iterable[type]:  # type: ignore[empty-body]
    """Backend classes: kinds of models, named in ``models: {x: {use: NAME}}``."""


@hookspec
def nfilter_trainers() -> Iterable[type]:  # type: ignore[empty-body]
    """Trainer classes, named in ``train: {use: NAME}``."""


@hookspec
def nfilter_sources() -> Iterable[type]:  # type: ignore[empty-body]
    """Source classes, named in ``source: {use: NAME}``."""


@hookspec
def nfilter_exporters() -> Iterable[type]:  # type: ignore[empty-body]
    """Exporter classes, which write the remaining rows of a run for another program."""


@hookspec
def nfilter_metrics() -> Iterable[type]:  # type: ignore[empty-body]
    """Metric classes; each is computed at the end of every run that it applies to."""


@hookspec
def nfilter_losses() -> Iterable[type]:  # type: ignore[empty-body]
    """Online token losses, for trainers that support them."""


@hookspec
def nfilter_tools() -> Iterable[type]:  # type: ignore[empty-body]
    """Tool classes: typed functions that a model may call (see ``nfilter.Tool``)."""


@hookspec
def nfilter_executors() -> Iterable[type]:  # type: ignore[empty-body]
    """Executor classes: what starts the processes of a run, named in ``executor: {use: NAME}``."""


@hookspec
def nfilter_models() -> Mapping[str, Path | NotInstalled]:  # type: ignore[empty-body]
    """Models that ship with a plugin: a short name mapped to the folder of its weights or to its GGUF file.

    If the package with the weights is not installed, the value is a ``NotInstalled`` with the pip command.
    """


@hookspec
def nfilter_prompts() -> Iterable[Path]:  # type: ignore[empty-body]
    """Directories of prompt templates, which contain ``folder/name.jinja`` files."""


@hookspec
def nfilter_recipes() -> Iterable[Path]:  # type: ignore[empty-body]
    """Directories of recipes that ``nfilter init --template NAME`` can copy."""


@hookspec
def nfilter_run_started(event: RunStarted) -> None:
    """A run begins. Exceptions of a listener are logged and do not end the run."""


@hookspec
def nfilter_stage_finished(event: StageFinished) -> None:
    """A stage published its artefact."""


@hookspec
def nfilter_run_finished(event: RunFinished) -> None:
    """A run ended without an error."""


REGISTRATIONS: Mapping[str, str] = {
    "nfilter_stages": "stage",
    "nfilter_backends": "backend",
    "nfilter_trainers": "trainer",
    "nfilter_sources": "source",
    "nfilter_exporters": "exporter",
    "nfilter_metrics": "metric",
    "nfilter_losses": "loss",
    "nfilter_tools": "tool",
    "nfilter_executors": "executor",
}
"""The kind that each hook registers, by hook name."""
HOOKS: tuple[str, ...] = tuple(
    name
    for name, value in list(globals().items())
    if name.startswith("nfilter_") and callable(value)
)
"""The names of all hooks, in the order of this file."""

__all__ = ["HOOKS", "REGISTRATIONS", "Any", "hookimpl", "hookspec"]
