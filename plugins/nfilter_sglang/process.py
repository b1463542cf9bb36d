"""Start the process that has SGLang's engine, and talk to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, BinaryIO, Final, Protocol

_FORCED: Final[Mapping[str, str]] = {
    # Log-probabilities before temperature and top_p, as `hf` computes them.
    "SGLANG_RETURN_ORIGINAL_LOGPROB": "1",
}
_UNLESS_SET: Final[Mapping[str, str]] = {"TQDM_DISABLE": "1"}
_WAIT: Final = 90.0
"""Seconds for the engine to stop its own processes; it allows them 60."""


class Channel(Protocol):
    """The two ends of a conversation with the process."""

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message. A process that has ended takes none; ``receive`` tells."""
        ...

    def receive(self) -> dict[str, Any] | None:
        """Wait for the next result; None if the process has ended."""
        ...

    def close(self) -> None:
        """Let the process end, and wait for it."""
        ...


class ProcessChannel:
    """A process of its own, in a session of its own, so that Ctrl-C in a terminal does not reach it: the run decides when it ends.

    The process ends when its input does, also if this process is killed. What SGLang prints goes to this process's error output.
    """

    def __init__(self) -> None:
        read, self._to = os.pipe()
        self._from, write = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - this file's own module
                # -P: a file sglang.py beside the recipe is not SGLang.
                [sys.executable, "-P", "-m", "nfilter_sglang.host", str(read), str(write)],
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=(read, write),
                start_new_session=True,
                env={**_UNLESS_SET, **os.environ, **_FORCED},
            )
        finally:
            os.close(read)
            os.close(write)
        self._messages: BinaryIO = os.fdopen(self._to, "wb")
        self._results: BinaryIO = os.fdopen(self._from, "rb")

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message. A process that has ended takes none; ``receive`` tells."""
        with suppress(BrokenPipeError):
            self._messages.write(json.dumps(message).encode() + b"\n")
            self._messages.flush()

    def receive(self) -> dict[str, Any] | None:
        """Wait for the next result; None if the process has ended."""
        line = self._results.readline()
        return dict(json.loads(line)) if line.endswith(b"\n") else None

    def close(self) -> None:
        """Let the process end, and wait for it."""
        with suppress(BrokenPipeError):
            self._messages.close()
        try:
            self._process.wait(_WAIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._results.close()
