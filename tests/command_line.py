"""The command line in the process of the test."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import NamedTuple

from nfilter.cli import entry


class Done(NamedTuple):
    """The exit code of a command, and what it printed."""

    code: int
    out: str
    err: str


def call(*arguments: str, cwd: Path | None = None) -> Done:
    """Run ``nfilter ARGUMENTS`` in ``cwd``, by default the current folder."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd or Path.cwd()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = entry(list(arguments))
    return Done(code, out.getvalue(), err.getvalue())
