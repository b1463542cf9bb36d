"""Run an untrusted program in a separate process that the kernel confines (see ``confined``), and read its output.

This module limits time and output, and kills the process group. The process gets no environment variables, no open files
and an empty working directory.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from nfilter import JSON, ToolError

_SCRIPT = Path(__file__).with_name("confined.py")
_START = 20.0
"""Seconds for the interpreter to start and to confine itself; the program's own time limit starts after that."""
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one run: wall-clock and processor ``seconds``, ``memory`` in MiB, ``output`` in characters."""

    seconds: float
    memory: int
    output: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """The output of the process, one line per step, and how it ended.

    ``ended`` is ``done`` if it ended by itself, ``time`` or ``output`` if it was killed at that limit. ``network_namespace``:
    whether it had a network namespace without devices; the filter of system calls refuses sockets in any case.
    """

    lines: Sequence[Mapping[str, Any]]
    ended: Literal["done", "time", "output"]
    network_namespace: bool


def run_confined(program: str, steps: Sequence[Mapping[str, JSON]], limits: Limits) -> Outcome:
    """Run ``program`` and ``steps`` in a confined process.

    Raises:
        ToolError: if the process cannot be confined; the program was then not run.
    """
    if not sys.platform.startswith("linux"):
        raise ToolError(
            f"programs are confined by the Linux kernel, and this is {sys.platform}; nothing was run"
        )
    job = {
        "program": program,
        "steps": [dict(step) for step in steps],
        "limits": {"memory": limits.memory * _MIB, "seconds": int(limits.seconds) + 2},
    }
    with (
        tempfile.TemporaryDirectory(prefix="nfilter-") as folder,
        tempfile.TemporaryFile() as given,
    ):
        given.write(json.dumps(job).encode("ascii"))
        given.seek(0)
        process = _started(given, folder)
        try:
            data, ended = _read(process, limits)
        finally:
            _end(process)
    return _outcome(data, ended)


def _started(given: IO[bytes], folder: str) -> subprocess.Popen[bytes]:
    """Start the interpreter with the script that confines itself, in a new process group."""
    try:
        return subprocess.Popen(  # noqa: S603 - the interpreter and a script of this package
            [sys.executable, "-I", "-S", str(_SCRIPT)],
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            close_fds=True,
            start_new_session=True,
        )
    except OSError as error:
        raise ToolError(f"no process can be started: {error}; nothing was run") from error


def _read(
    process: subprocess.Popen[bytes], limits: Limits
) -> tuple[bytes, Literal["done", "time", "output"]]:
    """Read until the process closes its output, or a limit is reached."""
    if process.stdout is None:
        raise ToolError("the process has no output; nothing was run")
    descriptor, data = process.stdout.fileno(), b""
    deadline = time.monotonic() + _START
    started = False
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if not selector.select(left):
                continue
            part = os.read(descriptor, 65536)
            if not part:
                return data, "done"
            data += part
            if len(data) > limits.output:
                return data, "output"
            if not started and b"\n" in data:
                started, deadline = True, time.monotonic() + limits.seconds
    return data, "time"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and its group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _outcome(data: bytes, ended: Literal["done", "time", "output"]) -> Outcome:
    lines = [_parsed(line) for line in data.split(b"\n")[:-1]]
    if not lines or lines[0].get("confined") is not True:
        why = lines[0].get("refused") if lines else "the process ended before it was confined"
        raise ToolError(f"the program cannot be confined here: {why}; nothing was run")
    return Outcome(lines[1:], ended, bool(lines[0].get("network_namespace")))


def _parsed(line: bytes) -> Mapping[str, Any]:
    """Parse a line of the process; it is untrusted, because the program may have written it."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def missing(limits: Limits) -> str | None:
    """Return why no program can be confined on this machine; None if it can."""
    try:
        run_confined("", (), limits)
    except (ToolError, OSError) as error:
        return str(error)
    return None
