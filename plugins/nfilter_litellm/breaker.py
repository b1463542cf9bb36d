"""When a run had better end: calls that fail for a reason that all the others share."""

from __future__ import annotations

from nfilter import ModelError
from nfilter_litellm.failures import CallError

_SHARED = 3
_DOWN = 20
_SILENT = 8


class Breaker:
    """Ends the run at the third call in a row that fails for a shared reason: a key, a quota, an unknown model.

    As long as the model has never answered, any failure counts: an address where nobody listens, a page that is no
    API. Later twenty in a row of any kind do: a server that went down. Replies with thoughts and no answer end it while there
    was no answer at all: eight of them, or all when there are three or more. ``who`` names the model and where it is, for
    the error.
    """

    def __init__(self, who: str) -> None:
        self._who = who
        self._row = 0
        self._shared = 0
        self._answered = False
        self._silent = 0
        self._last = ""

    def answered(self) -> None:
        """A call had an answer, or a failure that is an answer: a refusal, a prompt that is too long."""
        self._answered = True
        self._row = self._shared = 0

    def silent(self, detail: str) -> None:
        """A call had a whole reply, which was paid for, and no answer in it."""
        self._row = self._shared = 0
        self._silent += 1
        self._last = detail

    def heed(self) -> None:
        """The last call's completion was handed over.

        Raises:
            ModelError: when there were many replies, and no answer in any.
        """
        if not self._answered and self._silent >= _SILENT:
            raise self._error(f"{self._silent} calls in a row")

    def failed(self, fault: CallError) -> None:
        """A call has failed for good.

        Raises:
            ModelError: with the reason, when there were too many in a row.
        """
        if fault.spoken:
            self.answered()
            return
        self._row += 1
        self._shared += fault.stops
        self._last = fault.detail
        if self._shared >= _SHARED or self._row >= (_DOWN if self._answered else _SHARED):
            raise self._error(f"{self._row} calls in a row")

    def finished(self) -> None:
        """All calls that were asked for have ended.

        Raises:
            ModelError: when all of them failed, and they were too few for three in a row.
        """
        if not self._answered and (self._row or self._silent >= _SHARED):
            raise self._error("every call")

    def _error(self, calls: str) -> ModelError:
        return ModelError(
            f"{self._who}: {calls} failed, the last with: {self._last}. The run has ended; once that is mended, the same "
            "command goes on where it stopped"
        )
