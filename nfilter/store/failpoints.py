"""Failpoints: named points in the code at which a test kills the process, as ``kill -9`` does.

``NFILTER_FAILPOINT=NAME:N`` kills it when it reaches NAME for the N-th time; ``NFILTER_FAILPOINT=count:FILE`` writes how often
each failpoint was reached. Without the variable a failpoint costs one comparison.
"""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Final, Literal, get_args

Failpoint = Literal[
    "journal.begun", "journal.answers", "journal.uses", "journal.committed", "publish.opened", "publish.written",
    "publish.synced", "publish.renamed", "chunk.samples", "chunk.decisions", "stage.begun", "stage.finished",
    "calls.claimed", "calls.answered",
]  # fmt: skip
FAILPOINTS: Final[tuple[Failpoint, ...]] = get_args(Failpoint)

_ARMED: Final = os.environ.get("NFILTER_FAILPOINT")
_REACHED: Final[Counter[str]] = Counter()


def reach(name: Failpoint) -> None:
    """Kill the process, or count, if the environment variable names this failpoint."""
    if _ARMED is None:
        return
    _REACHED[name] += 1
    armed, _, value = _ARMED.partition(":")
    if armed == "count":
        Path(value).write_text(json.dumps(_REACHED), encoding="utf-8")
    elif armed == name and _REACHED[name] == int(value):
        os.kill(os.getpid(), signal.SIGKILL)
