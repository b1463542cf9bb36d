"""Attribute an exception to the plugin that raised it."""

from __future__ import annotations

import sqlite3
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from nfilter.api.errors import ContractError, NfilterError, NoteError, PluginError, StoreError
from nfilter.api.file_errors import DENIED, FULL, access_error, write_error
from nfilter.registry.loading import Plugins, Registered


def attribute(
    error: Exception, plugins: Plugins, stage: str, directory: Path | None
) -> PluginError | ContractError | StoreError | None:
    """Return an error that names the plugin whose code raised ``error`` while ``stage`` ran; None if no plugin did.

    It is the innermost plugin in the traceback: if a backend fails inside a stage, the backend is named. ``directory`` is the
    run's directory, or None outside a run; the message then contains the line, because there is no run.log.
    """
    if isinstance(error, NoteError):
        return ContractError(f"{stage}: {error}")
    # A full disk, or a file of the run that may not be used, is not the plugin's error.
    if isinstance(error, OSError) and error.errno in FULL:
        return write_error(Path(error.filename or directory or "."), error)
    if isinstance(error, OSError) and directory is not None and error.errno in DENIED:
        fault = access_error(directory, error)
        if fault is not None:
            return fault
    owners = {_package(item.cls.__module__): item for item in plugins.imported}
    raiser: Registered | None = None
    package = ""
    frame = error.__traceback__
    while frame is not None:
        package = _package(_module(frame))
        raiser = owners.get(package, raiser)
        frame = frame.tb_next
    if raiser is None or (package == "nfilter" and isinstance(error, OSError | sqlite3.Error)):
        return None
    message = "".join(traceback.format_exception_only(error)).strip().replace("\n", " ")
    cause = (
        "A file, the network or a permission may be missing; otherwise report it to the plugin's author"
        if isinstance(error, OSError)
        else "The error is in the plugin: report it to its author"
    )
    if directory is None:
        frames = traceback.extract_tb(error.__traceback__)
        place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        return PluginError(
            f"plugin {raiser.plugin!r} of {raiser.origin} raised {message}{place} ({stage}). {cause}"
        )
    return PluginError(
        f"plugin {raiser.plugin!r} of {raiser.origin} raised {message} (stage {stage}). {cause} with the traceback in "
        "run.log; when it is repaired, run the same command to resume"
    )


@contextmanager
def attributed(plugins: Plugins, what: str) -> Iterator[None]:
    """Convert exceptions of plugins in the block to errors that name the plugin; for commands other than `nfilter run`.

    Raises:
        PluginError: if a plugin raised an exception.
    """
    try:
        yield
    except NfilterError:
        raise
    except Exception as error:
        fault = attribute(error, plugins, what, None)
        if fault is None:
            raise
        raise fault from error


def _module(frame: TracebackType) -> str:
    return str(frame.tb_frame.f_globals.get("__name__", ""))


def _package(module: str) -> str:
    return module.partition(".")[0]
