"""The hooks. They register things and observe things; none changes data, and the recipe alone gives the order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pluggy

from nfilter.api.errors import NotInstalled
from nfilter.api.events import RunFinished, RunStarted, StageFinished

hookspec = pluggy.HookspecMarker("nfilter")
hookimpl = pluggy.HookimplMarker("nfilter")


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
    """Exporter classes: what remains of a run, written for another program."""


@hookspec
def nfilter_metrics() -> Iterable[type]:  # type: ignore[empty-body]
    """Metric classes; each is computed at the end of every run that it applies to."""


@hookspec
def nfilter_losses() -> Iterable[type]:  # type: ignore[empty-body]
    """Online token losses, for trainers that take one."""


@hookspec
def nfilter_models() -> Mapping[str, Path | NotInstalled]:  # type: ignore[empty-body]
    """Models that ship with a plugin: a short name to the folder of its weights, or to its GGUF file.

    Where the package that brings the weights is not installed, ``NotInstalled`` says what to type.
    """


@hookspec
def nfilter_prompts() -> Iterable[Path]:  # type: ignore[empty-body]
    """Directories of prompt templates, each holding ``folder/name.jinja`` files."""


@hookspec
def nfilter_recipes() -> Iterable[Path]:  # type: ignore[empty-body]
    """Directories of recipes that ``nfilter init --template NAME`` can copy."""


@hookspec
def nfilter_run_started(event: RunStarted) -> None:
    """A run begins. What a listener raises is logged and never fatal."""


@hookspec
def nfilter_stage_finished(event: StageFinished) -> None:
    """A stage published its artefact."""


@hookspec
def nfilter_run_finished(event: RunFinished) -> None:
    """A run ended well."""


REGISTRATIONS: Mapping[str, str] = {
    "nfilter_stages": "stage",
    "nfilter_backends": "backend",
    "nfilter_trainers": "trainer",
    "nfilter_sources": "source",
    "nfilter_exporters": "exporter",
    "nfilter_metrics": "metric",
    "nfilter_losses": "loss",
}
"""Hook name to the kind of thing that it registers."""

__all__ = ["REGISTRATIONS", "Any", "hookimpl", "hookspec"]
