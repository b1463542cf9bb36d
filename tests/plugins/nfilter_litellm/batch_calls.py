"""Calls in batches to a simulated server, and what it received."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from nfilter import Completion, Message, Request, Sampling
from tests.model_server.batches import BatchScript
from tests.model_server.faults import answer
from tests.model_server.server import ModelServer

NEVER = BatchScript(looks=10**9)
PRICE = {"prompt": 1000.0, "completion": 10000.0}


def asked(n: int, *, logprobs: bool = False, **sampling: Any) -> list[Request]:
    """Return ``n`` requests."""
    settings = Sampling(**{"max_tokens": 8, **sampling})
    return [
        Request((Message("user", f"question {i}"),), settings, logprobs, f"s{i}") for i in range(n)
    ]


def expected(n: int) -> list[str]:
    """Return the server's answers to ``asked(n)``."""
    return [answer([{"role": "user", "content": f"question {i}"}]) for i in range(n)]


def texts(done: list[Completion]) -> list[str]:
    """Return the texts of completions."""
    return [one.text for one in done]


def sizes(server: ModelServer) -> list[int]:
    """Return the number of calls in each batch."""
    return [batch["request_counts"]["total"] for batch in server.batches.made]


def when(until: Callable[[], bool], then: Callable[[], None]) -> None:
    """Call ``then`` in another thread once ``until`` returns True."""

    def work() -> None:
        while not until():
            time.sleep(0.002)
        then()

    threading.Thread(target=work, daemon=True).start()
