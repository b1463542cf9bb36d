"""Which process makes a call, where several processes run one stage: equal calls are made once, by the process that claims them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Final, Protocol

from nfilter.api.calls import Completion, Request
from nfilter.api.errors import StoreError
from nfilter.models.conversations import Conversations, PreparedCall
from nfilter.models.recording import Recorder, is_transient
from nfilter.store.failpoints import reach

_SECONDS: Final = (
    2.0  # between two publications of answers, at most: another process may wait for one
)
_PAUSE: Final = (
    0.05  # between two looks at calls of other processes, while other conversations may go on
)
_LOOK: Final = 0.25  # between two looks while answers come


class CallClaims(Protocol):
    """The claims of this process to the calls of one stage. Answers are those of other processes."""

    def take(self, keys: Sequence[str]) -> tuple[Sequence[str], Mapping[str, Completion]]:
        """Claim calls; return the keys of those that this process makes, and answers. Others are being made elsewhere."""
        ...

    def look(self, keys: Sequence[str]) -> tuple[Collection[str], Mapping[str, Completion]]:
        """Return the keys of calls that nobody makes any more, and answers."""
        ...

    def wait(
        self, keys: Sequence[str], check: Callable[[], None]
    ) -> tuple[Collection[str], Mapping[str, Completion]]:
        """Return what ``look`` does, as soon as it is not empty. An error of ``check``, called before each look, ends it."""
        ...

    def settle(self, answers: Mapping[str, Completion], released: Collection[str]) -> None:
        """Publish answers to claimed calls, and give up those of this process's claims that are ``released``."""
        ...


class ClaimedCalls:
    """The claims of one group of calls. Without ``claims`` this process makes every call."""

    def __init__(
        self,
        claims: CallClaims | None,
        recorder: Recorder,
        skip: Callable[[Mapping[str, Completion]], None],
    ) -> None:
        """``skip`` receives the answers of other processes, which took this one no time."""
        self._claims = claims
        self._recorder = recorder
        self._skip = skip
        self._pending: set[str] = set()
        self._answers: dict[str, Completion] = {}
        self._settled = self._looked = time.monotonic()

    def take(self, keys: Sequence[str]) -> tuple[Sequence[str], Mapping[str, Completion]]:
        """Claim calls; return the keys of those to make here, and the answers of other processes, which are recorded."""
        if self._claims is None:
            return keys, {}
        # Before the claim: an interrupt may come when it is written and not yet returned.
        self._pending |= set(keys)
        mine, answers = self._claims.take(keys)
        self._pending -= set(keys).difference(mine)
        return mine, self._borrowed(answers)

    def wait(self, keys: Sequence[str], check: Callable[[], None]) -> Mapping[str, Completion]:
        """Wait until a call of another process is answered or given up; return the answers, which are recorded.

        An error of ``check``, which is called again and again, ends it.
        """
        assert self._claims is not None
        return self._borrowed(self._claims.wait(keys, check)[1])

    def look(
        self, keys: Sequence[str], *, idle: bool
    ) -> tuple[Collection[str], Mapping[str, Completion]]:
        """Return the keys of calls that nobody makes any more, and answers, which are recorded; nothing if the last look was just now.

        ``idle``: none of these calls is running here, so that this publishes all answers and may wait a moment.
        """
        if self._claims is None:
            return (), {}
        if idle:
            # Others may wait for these answers while this process waits for theirs.
            self.close()
            time.sleep(_PAUSE)
        else:
            self._settle_if_due()
            if not keys or time.monotonic() - self._looked < _LOOK:
                return (), {}
        self._looked = time.monotonic()
        free, answers = self._claims.look(keys)
        return free, self._borrowed(answers)

    def answered(self, key: str, answer: Completion) -> None:
        """Publish an answer of the model, at once or soon. A call that may succeed if repeated is given up instead."""
        if self._claims is None:
            return
        if not is_transient(answer):
            self._answers[key] = answer
        self._settle_if_due()

    def close(self) -> None:
        """Publish all answers, and give up the other claims of this group.

        If the answers cannot be committed, all claims are given up, so that other processes make the calls.
        """
        if self._claims is None or not self._pending:
            return
        try:
            self._recorder.commit()
        except BaseException:
            self._answers = {}
            # The folder of the claims may be on the same full disk.
            with suppress(StoreError):
                self._settle(self._pending)
            raise
        # A process that is killed here finds its answers in the journal, and publishes them when it is started again.
        reach("calls.answered")
        self._settle(self._pending - self._answers.keys())

    def _settle_if_due(self) -> None:
        if time.monotonic() - self._settled > _SECONDS:
            if self._answers:
                self._recorder.commit()
            self._settle(())

    def _settle(self, released: Collection[str]) -> None:
        """Publish the answers, which are committed."""
        assert self._claims is not None
        self._settled = time.monotonic()
        if self._answers or released:
            self._claims.settle(self._answers, released)
        self._pending = self._pending.difference(self._answers, released)
        self._answers = {}

    def _borrowed(self, answers: Mapping[str, Completion]) -> Mapping[str, Completion]:
        if answers:
            self._recorder.borrow(answers)
            self._skip(answers)
        return answers


class ClaimedConversations:
    """Conversations whose calls are claimed before they are sent. ``elsewhere`` has the calls that other processes make, by key."""

    def __init__(self, talks: Conversations, claimed: ClaimedCalls) -> None:
        self._talks = talks
        self._claimed = claimed
        self.elsewhere: dict[str, PreparedCall] = {}

    @property
    def ended(self) -> int:
        """The number of conversations that have ended."""
        return self._talks.ended

    @property
    def last(self) -> Mapping[int, Completion]:
        """The last completion of each conversation, by number."""
        return self._talks.last

    def start(self, first: Sequence[Request]) -> list[PreparedCall]:
        """Return the calls to make here at the start."""
        return self._own(self._talks.start(first))

    def answered(self, key: str, answer: Completion) -> list[PreparedCall]:
        """Return the calls to make here that follow from an answer."""
        return self._own(self._talks.answered(key, answer))

    def meanwhile(self, *, idle: bool = False) -> list[PreparedCall]:
        """Return the calls to make here that follow from what other processes did; ``idle`` as in ``ClaimedCalls.look``."""
        free, theirs = self._claimed.look(list(self.elsewhere), idle=idle)
        calls = [self.elsewhere.pop(key) for key in free]
        for key in theirs:
            del self.elsewhere[key]
        return self._own([*calls, *self._replies(theirs)])

    def _own(self, calls: Sequence[PreparedCall]) -> list[PreparedCall]:
        """Claim calls; return those to make here, and those that follow from answers of other processes."""
        own: list[PreparedCall] = []
        while calls:
            by_key = {call.key: call for call in calls}
            mine, theirs = self._claimed.take(list(by_key))
            own += [by_key.pop(key) for key in mine]
            for key in theirs:
                del by_key[key]
            self.elsewhere |= by_key
            calls = self._replies(theirs)
        return own

    def _replies(self, theirs: Mapping[str, Completion]) -> list[PreparedCall]:
        return [
            call for key, answer in theirs.items() for call in self._talks.answered(key, answer)
        ]
