"""Whose fault an exception is: an error of nfilter's own tree for what a plugin let through."""

from __future__ import annotations

import errno
import sqlite3
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from nfilter.api.errors import ContractError, NfilterError, NoteError, PluginError, StoreError
from nfilter.registry.loading import Plugins, Registered
from nfilter.store.files import unwritten

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def blame(
    error: Exception, plugins: Plugins, stage: str, directory: Path | None
) -> PluginError | ContractError | StoreError | None:
    """The plugin whose code raised ``error``, at work for ``stage``, in one sentence; None where no plugin's did.

    It is the innermost one on the way to where ``error`` was raised: a backend that fails inside a stage is to blame,
    not the stage. ``directory`` is the run's; None outside of a run, where the sentence itself tells the line.
    """
    if isinstance(error, NoteError):
        return ContractError(f"{stage}: {error}")
    # A disk that is full is nobody's fault, whoever asked for the file.
    if isinstance(error, OSError) and error.errno in _FULL:
        return unwritten(Path(error.filename or directory or "."), error)
    owners = {_package(item.cls.__module__): item for item in plugins.imported}
    found: Registered | None = None
    package = ""
    frame = error.__traceback__
    while frame is not None:
        package = _package(_module(frame))
        found = owners.get(package, found)
        frame = frame.tb_next
    if found is None or (package == "nfilter" and isinstance(error, OSError | sqlite3.Error)):
        return None
    said = "".join(traceback.format_exception_only(error)).strip().replace("\n", " ")
    cause = (
        "A file, the network or a right to either may be what is missing; else report it to the plugin's author"
        if isinstance(error, OSError)
        else "The fault is in the plugin: report it to its author"
    )
    if directory is None:
        frames = traceback.extract_tb(error.__traceback__)
        place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        return PluginError(
            f"plugin {found.plugin!r} of {found.origin} raised {said}{place} ({stage}). {cause}"
        )
    return PluginError(
        f"plugin {found.plugin!r} of {found.origin} raised {said} (stage {stage}). {cause} with the traceback, which is in "
        "run.log; once it is mended, the same command goes on where it stopped"
    )


@contextmanager
def attributed(plugins: Plugins, what: str) -> Iterator[None]:
    """Around a command that is no run: what a plugin lets through becomes an error that names it.

    Raises:
        PluginError: for an exception of a plugin.
    """
    try:
        yield
    except NfilterError:
        raise
    except Exception as error:
        fault = blame(error, plugins, what, None)
        if fault is None:
            raise
        raise fault from error


def _module(frame: TracebackType) -> str:
    return str(frame.tb_frame.f_globals.get("__name__", ""))


def _package(module: str) -> str:
    return module.partition(".")[0]
