"""The answers of one group of calls on their way to the journal: committed soon after they come, a few at a time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Final

from nfilter.api.calls import Completion, Request
from nfilter.store.journal import Journal, Use

_TRANSIENT: Final = frozenset({"timeout", "server", "memory"})
_GROUP: Final = 32  # answers per commit
_SECONDS: Final = 1.0  # between commits, at most


class Recorder:
    """Commits answers and their uses. ``done`` has every answer of these calls, by key."""

    def __init__(self, journal: Journal, stage: str, model: str) -> None:
        self.done: dict[str, Completion] = {}
        self._journal = journal
        self._stage = stage
        self._model = model
        self._samples: dict[str, dict[str, None]] = {}
        self._requests: dict[str, Request] = {}
        self._fresh: dict[str, Completion] = {}
        self._found: dict[str, None] = {}
        self._lost = 0.0
        self._last = time.monotonic()

    def ask(self, key: str, request: Request) -> None:
        """Record that a call is needed for the sample of ``request``. Several samples may need one call."""
        self._samples.setdefault(key, {})[request.sample_id] = None
        self._requests.setdefault(key, request)

    def find(self, keys: Iterable[str]) -> dict[str, Completion]:
        """Return the known answers among ``keys``: of the journal and of these calls. Their uses are committed later."""
        unique = dict.fromkeys(keys)
        self.done |= self._journal.find([key for key in unique if key not in self.done])
        found = {key: self.done[key] for key in unique if key in self.done}
        # A fresh answer is committed with all its uses anyway.
        self._found |= dict.fromkeys(key for key in found if key not in self._fresh)
        return found

    def borrow(self, answers: Mapping[str, Completion]) -> None:
        """Take answers of another process, which has paid for them. Their uses are committed later."""
        self._journal.commit(list(answers.items()), [])
        self.done |= answers
        self._found |= dict.fromkeys(answers)

    def add(self, key: str, answer: Completion) -> None:
        """Take an answer of the model."""
        self._fresh[key] = self.done[key] = answer

    def lose(self, usd: float) -> None:
        """Take the cost of calls without an answer, in dollars."""
        self._lost += usd

    def commit_if_due(self, *, idle: bool = False) -> None:
        """Commit if there are enough answers, or the last commit is long ago, or no answer is waiting to be read (``idle``)."""
        late = time.monotonic() - self._last > _SECONDS
        if self._fresh and (idle or late or len(self._fresh) >= _GROUP):
            self.commit()

    def commit(self) -> None:
        """Commit everything that is not committed yet. Call it also after an error: answers that came were paid for.

        After an error of the commit itself, the next one tries it again.
        """
        answers, found = self._fresh, self._found
        self._last = time.monotonic()
        kept = {key: answer for key, answer in answers.items() if not is_transient(answer)}
        uses = [
            Use(self._stage, sample, key, self._model)
            for key in (*found, *kept)
            for sample in self._samples[key]
        ]
        lost = self._costs(answers, kept)
        if kept or uses or lost:
            asked = {use.key: self._requests[use.key] for use in uses}
            self._journal.commit(list(kept.items()), uses, lost, list(asked.items()))
        self._fresh, self._found, self._lost = {}, {}, 0.0

    def _costs(
        self, answers: Mapping[str, Completion], kept: Mapping[str, Completion]
    ) -> list[tuple[str, str, float]]:
        """Return the costs of calls without an answer, and of transient failures: such a call is not stored, but was paid for."""
        costs = [answer.usd for key, answer in answers.items() if key not in kept]
        return [(self._stage, self._model, usd) for usd in (*costs, self._lost) if usd]


def is_transient(answer: Completion) -> bool:
    """Whether an answer is a failure that may not come again: it is not stored, and the call is made again."""
    return answer.failure is not None and answer.failure.kind in _TRANSIENT
