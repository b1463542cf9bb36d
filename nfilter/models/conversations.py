"""Conversations: calls of which each depends on the answer to the one before, many conversations side by side."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType

from nfilter.api.calls import Completion, Request
from nfilter.api.interrupt import Interrupt, Interrupted

Reply = Callable[[int, Completion], Request | None]
"""Returns the next request of a conversation from its number and its completion; None at its end."""


Steps = Generator[None, None, list[Completion]]
"""Conversations in steps, which other work may stand between; returns the last completion of each conversation."""


def finished(steps: Steps) -> list[Completion]:
    """Take all steps; return their result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            last: list[Completion] = end.value
            return last


def conversing_in_rounds(
    generate: Callable[[Sequence[Request]], list[Completion]],
    first: Sequence[Request],
    reply: Reply,
) -> Steps:
    """Yield after each round, in which all conversations that go on make one batch."""
    last: dict[int, Completion] = {}
    going = list(enumerate(first))
    while going:
        answers = generate([request for _, request in going])
        following = []
        for (number, _), answer in zip(going, answers, strict=True):
            last[number] = answer
            request = reply(number, answer)
            if request is not None:
                following.append((number, request))
        going = following
        yield
    return [last[number] for number in range(len(first))]


@dataclass(frozen=True, slots=True)
class PreparedCall:
    """A request as it is sent. ``read`` returns the completion as a stage sees it."""

    key: str
    request: Request
    read: Callable[[Completion], Completion]


class Conversations:
    """The state of conversations over one stream of calls. Equal calls of several conversations are one."""

    def __init__(
        self,
        prepare: Callable[[Request], PreparedCall],
        find: Callable[[Iterable[str]], Mapping[str, Completion]],
        reply: Reply,
    ) -> None:
        """``find`` returns the answers that are known without a call."""
        self.last: dict[int, Completion] = {}
        self._prepare = prepare
        self._find = find
        self._reply = reply
        self._waiting: dict[str, list[tuple[int, PreparedCall]]] = {}
        self.ended = 0

    def start(self, first: Sequence[Request]) -> list[PreparedCall]:
        """Return the calls to make at the start."""
        return self._to_make(list(enumerate(first)))

    def answered(self, key: str, answer: Completion) -> list[PreparedCall]:
        """Return the calls that follow from an answer."""
        return self._to_make(self._replies(self._waiting.pop(key), answer))

    def _to_make(self, ready: list[tuple[int, Request]]) -> list[PreparedCall]:
        calls = []
        while ready:
            prepared = [(number, self._prepare(request)) for number, request in ready]
            ready = []
            known = self._find(call.key for _, call in prepared if call.key not in self._waiting)
            for number, call in prepared:
                if call.key in known:
                    ready += self._replies([(number, call)], known[call.key])
                    continue
                if call.key not in self._waiting:
                    calls.append(call)
                self._waiting.setdefault(call.key, []).append((number, call))
        return calls

    def _replies(
        self, waiting: Iterable[tuple[int, PreparedCall]], answer: Completion
    ) -> list[tuple[int, Request]]:
        following = []
        for number, call in waiting:
            self.last[number] = call.read(answer)
            request = self._reply(number, self.last[number])
            if request is None:
                self.ended += 1
            else:
                following.append((number, request))
        return following


class Ending:
    """How conversations end early: at the first error no further call starts, and the answers of running calls are still taken.

    Attributes:
        error: The first error, to be raised after the block.
    """

    def __init__(self, interrupt: Interrupt) -> None:
        self.error: BaseException | None = None
        self._interrupt = interrupt
        self._draining = ExitStack()

    def __enter__(self) -> Ending:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        """Suppress what follows from the first error, such as the end of a stream whose requests were not all answered."""
        self._draining.close()
        if self.error is None or not isinstance(error, Exception | Interrupted):
            return False
        if isinstance(self.error, Interrupted) and isinstance(error, Exception):
            # These conversations end because of others, and have an error of their own.
            self.error = error
        return True

    @contextmanager
    def begins_at(self, *kinds: type[BaseException]) -> Iterator[None]:
        """Take an error of one of ``kinds`` in the block as the first error, unless there was one."""
        try:
            yield
        except kinds as error:
            if self.error is None:
                self.error = error
                cause = error.__cause__ if isinstance(error, Interrupted) else error
                self._draining.enter_context(self._interrupt.draining(cause))


@contextmanager
def closed_at_end(stream: object) -> Iterator[None]:
    """Close a stream at the end of the block if it is a generator."""
    try:
        yield
    finally:
        if isinstance(stream, Generator):
            stream.close()
