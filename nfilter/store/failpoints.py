"""Places at which a test may end the process as ``kill -9`` does: the moments that a run has to survive.

``NFILTER_FAILPOINT=NAME:N`` ends it the N-th time that NAME is reached, ``NFILTER_FAILPOINT=count:FILE`` writes how often each
was reached. Without the variable a place costs one comparison.
"""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Final, Literal, get_args

Place = Literal[
    "journal.begun", "journal.answers", "journal.uses", "journal.committed", "publish.opened", "publish.written",
    "publish.synced", "publish.renamed", "chunk.samples", "chunk.decisions", "stage.begun", "stage.finished",
]  # fmt: skip
PLACES: Final[tuple[Place, ...]] = get_args(Place)

_ARMED: Final = os.environ.get("NFILTER_FAILPOINT")
_REACHED: Final[Counter[str]] = Counter()


def reach(place: Place) -> None:
    """Say that ``place`` is reached."""
    if _ARMED is None:
        return
    _REACHED[place] += 1
    name, _, value = _ARMED.partition(":")
    if name == "count":
        Path(value).write_text(json.dumps(_REACHED), encoding="utf-8")
    elif name == place and _REACHED[place] == int(value):
        os.kill(os.getpid(), signal.SIGKILL)
