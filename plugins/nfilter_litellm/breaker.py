"""Circuit breaker: ends the run when calls fail for a shared reason."""

from __future__ import annotations

from nfilter import ModelError
from nfilter_litellm.failures import CallError

_MAX_SHARED = 3
_MAX_CONSECUTIVE = 20
_MAX_UNANSWERED = 8


class Breaker:
    """Ends the run at the third consecutive call that fails for a shared reason: a key, a quota, an unknown model.

    Before the first answer any failure counts: a wrong address, a page that is not an API. Later twenty consecutive
    failures of any kind end it: the server is down. Replies with reasoning but no answer end it before the first answer:
    eight of them, or all if there are at least three. ``label`` names the model and its address in errors.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._consecutive = 0
        self._shared = 0
        self._answered = False
        self._unanswered_count = 0
        self._last = ""

    def answered(self) -> None:
        """Record an answer, or a failure that is an answer: a refusal, a prompt that is too long."""
        self._answered = True
        self._consecutive = self._shared = 0

    def unanswered(self, detail: str) -> None:
        """Record a complete, billed reply without an answer."""
        self._consecutive = self._shared = 0
        self._unanswered_count += 1
        self._last = detail

    def check_unanswered(self) -> None:
        """Check the replies without an answer, after the last completion was delivered.

        Raises:
            ModelError: there were many replies and no answer.
        """
        if not self._answered and self._unanswered_count >= _MAX_UNANSWERED:
            raise self._error(f"{self._unanswered_count} consecutive calls")

    def failed(self, fault: CallError) -> None:
        """Record the final failure of a call.

        Raises:
            ModelError: too many consecutive calls failed.
        """
        if fault.is_answer:
            self.answered()
            return
        self._consecutive += 1
        self._shared += fault.shared
        self._last = fault.detail
        limit = _MAX_CONSECUTIVE if self._answered else _MAX_SHARED
        if self._shared >= _MAX_SHARED or self._consecutive >= limit:
            raise self._error(f"{self._consecutive} consecutive calls")

    def finished(self) -> None:
        """Check the result of a set of calls after the last one.

        Raises:
            ModelError: all of them failed, and they were too few for the other limits.
        """
        if not self._answered and (self._consecutive or self._unanswered_count >= _MAX_SHARED):
            raise self._error("every call")

    def _error(self, calls: str) -> ModelError:
        return ModelError(
            f"{self._label}: {calls} failed, the last with: {self._last.rstrip('.')}. The run has ended; once the cause is fixed, the "
            "same command continues where it stopped"
        )
