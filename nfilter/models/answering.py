"""The calls that generate text: prepared, looked up in the journal, sent, recorded, and read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from nfilter.answers.thoughts import Thoughts
from nfilter.api.budget import Budget
from nfilter.api.calls import Completion, Request
from nfilter.api.capabilities import EndsPrompts, Streams
from nfilter.api.errors import ContractError
from nfilter.api.interrupt import Interrupt, Interrupted
from nfilter.api.stages import Progress
from nfilter.models.claims import CallClaims, ClaimedCalls, ClaimedConversations
from nfilter.models.control_tokens import neutral
from nfilter.models.conversations import Conversations, Ending, PreparedCall, Reply, closed_at_end
from nfilter.models.pace import Pace
from nfilter.models.recording import Recorder
from nfilter.registry.contracts import check_completions
from nfilter.store.journal import Journal, call_key

_SLICE: Final = 256  # requests per call of a backend that does not stream


@dataclass(slots=True)
class _Outbox:
    """The requests of conversations on their way to a stream.

    Attributes:
        now: Those that are sent next.
        late: Those that are sent with the next answer, or in another stream.
        sent: The keys of those that were sent, in order.
    """

    now: list[PreparedCall] = field(default_factory=list)
    late: list[PreparedCall] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)

    def more(self) -> list[Request]:
        """Return the requests to send now."""
        batch, self.now, self.late = [*self.now, *self.late], [], []
        self.sent.extend(call.key for call in batch)
        return [call.request for call in batch]


@dataclass(slots=True)
class Answering:
    """The calls of one stage to one model.

    Attributes:
        stage: The name of the stage.
        model: The name of the model in the recipe.
        backend: The backend; it renders prompts.
        capable: What generates: the backend, or the same weights with an adapter.
        fingerprint: Identifies the weights, including an active adapter.
        journal: Stores the completions.
        progress: Opens a progress bar.
        interrupt: Tells whether the run is being interrupted.
        cost: Returns the cost so far; called when the progress bar is drawn.
        thoughts: Separates reasoning from answers.
        pace: Receives the time of every answer.
        claims: Tells which calls other processes make; None: this process makes all.
        budget: Has the costs of calls without an answer.
    """

    stage: str
    model: str
    backend: Any
    capable: Any
    fingerprint: str
    journal: Journal
    progress: Callable[..., AbstractContextManager[Progress]]
    interrupt: Interrupt
    cost: Callable[[], str] | None
    thoughts: Thoughts
    pace: Pace | None
    claims: CallClaims | None = None
    budget: Budget | None = None

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Return one completion per request, in order.

        Raises:
            ContractError: if the backend does not return one completion per request.
        """
        prepare = self._preparer()
        calls = [prepare(request) for request in requests]
        recorder = Recorder(self.journal, self.stage, self.model)
        for call in calls:
            recorder.ask(call.key, call.request)
        known = self._find(recorder, [call.key for call in calls])
        todo = {call.key: call.request for call in calls if call.key not in known}
        claimed = ClaimedCalls(self.claims, recorder, self._skip)
        with self._recorded(recorder, claimed, len(todo), "answers") as bar:
            going = True
            while going:
                mine, theirs = claimed.take(list(todo))
                answers = self._answers({key: todo.pop(key) for key in mine})
                # The traceback of an error holds the stream, and calls that nobody reads would go on.
                with closed_at_end(answers):
                    for came in answers:
                        if came is not None:
                            self._take(recorder, claimed, *came)
                            bar.advance()
                        recorder.commit_if_due(idle=came is None)
                # Others may wait for these answers while this process waits for theirs.
                claimed.close()
                if todo and not theirs:
                    theirs = claimed.wait(list(todo), partial(self._check_may_start, todo))
                for key in theirs:
                    del todo[key]
                    bar.advance()
                going = bool(todo)
        done = [call.read(recorder.done[call.key]) for call in calls]
        self._record_outcomes(zip((call.key for call in calls), done, strict=True))
        return done

    def conversing(
        self, first: Sequence[Request], reply: Reply
    ) -> Generator[None, None, list[Completion]]:
        """Yield after each answer and while none comes; return the last completions. The backend has ``OpenStreams``.

        After an error of ``reply``, and when Interrupted is thrown in because other conversations end, no call starts, and the
        answers of running calls are stored before the error is raised.

        Raises:
            ContractError: if a request has no completion, or two.
        """
        prepare = self._preparer()
        recorder = Recorder(self.journal, self.stage, self.model)
        ends: dict[str, Completion] = {}

        def recorded(request: Request) -> PreparedCall:
            call = prepare(request)
            recorder.ask(call.key, call.request)

            def read(answer: Completion) -> Completion:
                ends[call.key] = call.read(answer)
                return ends[call.key]

            return PreparedCall(call.key, call.request, read)

        claimed = ClaimedCalls(self.claims, recorder, self._skip)
        talks = ClaimedConversations(
            Conversations(recorded, lambda keys: self._find(recorder, list(keys)), reply), claimed
        )
        box = _Outbox()
        with self._recorded(recorder, claimed, len(first), "conversations") as bar:
            box.now = talks.start(first)
            bar.advance(talks.ended)
            going = True
            while going:
                yield from self._streamed(box, talks, recorder, claimed, bar)
                if talks.elsewhere and not box.late:
                    ended = talks.ended
                    box.late += talks.meanwhile(idle=True)
                    bar.advance(talks.ended - ended)
                    yield
                box.now, box.late = box.late, []
                going = bool(box.now or talks.elsewhere)
        self._record_outcomes(ends.items())
        return [talks.last[number] for number in range(len(first))]

    def _streamed(
        self,
        box: _Outbox,
        talks: ClaimedConversations,
        recorder: Recorder,
        claimed: ClaimedCalls,
        bar: Progress,
    ) -> Generator[None, None, None]:
        """Send the requests of ``box`` in one stream, with those that follow; yield after each answer and while none comes."""
        box.sent.clear()
        self._check_may_start(box.now)
        stream = self.capable.open_stream(box.more(), box.more) if box.now else ()
        # The traceback of an error of the stage holds the stream, and calls that nobody reads would go on.
        with Ending(self.interrupt) as ending, closed_at_end(stream):
            for came in self._received(stream, box.sent):
                if came is not None:
                    self._take(recorder, claimed, *came)
                if ending.error is None:
                    ended = talks.ended
                    with ending.begins_at(Exception, Interrupted):
                        box.now += talks.answered(*came) if came is not None else []
                        box.late += talks.meanwhile()
                    bar.advance(talks.ended - ended)
                recorder.commit_if_due(idle=came is None)
                with ending.begins_at(Interrupted):
                    yield
                if ending.error is not None:
                    box.now, box.late = [], []
        if ending.error is not None:
            raise ending.error
        if box.now:
            raise self._miscounted(f"{len(box.now)} requests of more() were not answered")

    @contextmanager
    def _recorded(
        self, recorder: Recorder, claimed: ClaimedCalls, total: int, what: str
    ) -> Iterator[Progress]:
        """Show a progress bar and measure the pace of the model; commit at the end, also after an error."""
        if self.pace is not None:
            self.pace.begin(self.model)
        with self.progress(total, f"{self.stage}: {self.model} {what}", self.cost) as bar:
            try:
                yield bar
            finally:
                # Answers that arrived before an error or an interrupt were paid for, and so were attempts without an answer.
                if self.budget is not None:
                    recorder.lose(self.budget.take_lost())
                try:
                    recorder.commit()
                finally:
                    claimed.close()
        if self.pace is not None:
            self.pace.end(self.model)

    def _find(self, recorder: Recorder, keys: Sequence[str]) -> dict[str, Completion]:
        known = recorder.find(keys)
        self._skip(known)
        return known

    def _skip(self, known: Mapping[str, Completion]) -> None:
        """Count answers that took this process no time."""
        if self.pace is not None:
            self.pace.known(self.model, known)

    def _take(
        self, recorder: Recorder, claimed: ClaimedCalls, key: str, answer: Completion
    ) -> None:
        recorder.add(key, answer)
        claimed.answered(key, answer)
        if self.pace is not None:
            self.pace.answered(self.model, key, answer)

    def _record_outcomes(self, ends: Iterable[tuple[str, Completion]]) -> None:
        """Record in the journal how each call ended."""
        kinds = {key: None if each.failure is None else each.failure.kind for key, each in ends}
        self.journal.record_outcomes(self.stage, self.model, kinds)

    def _answers(self, todo: Mapping[str, Request]) -> Iterator[tuple[str, Completion] | None]:
        # Long prompts first: batches are then of similar lengths, and running out of memory shows early.
        order = sorted(todo, key=lambda key: -sum(len(m.content) for m in todo[key].messages))
        if isinstance(self.capable, Streams):
            self._check_may_start(order)
            yield from self._received(self.capable.stream([todo[key] for key in order]), order)
            return
        for start in range(0, len(order), _SLICE):
            part = order[start : start + _SLICE]
            self._check_may_start(part)
            came = self.capable.generate([todo[key] for key in part])
            answers = check_completions(self._model_text(), came, len(part))
            yield from zip(part, answers, strict=True)

    def _check_may_start(self, calls: Collection[object]) -> None:
        """Raise Interrupted if there are calls and none may start: a backend without paid calls does not ask."""
        if calls and self.interrupt.requested:
            raise Interrupted

    def _received(
        self, stream: Iterable[tuple[int, Completion] | None], sent: Sequence[str]
    ) -> Iterator[tuple[str, Completion] | None]:
        """Yield the answers of a stream by key. ``sent`` has the keys of the requests, and may grow."""
        answered: set[int] = set()
        with closed_at_end(stream):
            for came in stream:
                if came is None:
                    yield None
                    continue
                index, answer = came
                check_completions(self._model_text(), [answer], 1)
                if index in answered or not 0 <= index < len(sent):
                    raise self._miscounted(
                        f"request {index} of {len(sent)} was answered twice, or does not exist"
                    )
                answered.add(index)
                yield sent[index], answer
        if self.interrupt.requested:
            raise Interrupted
        if len(answered) < len(sent):
            raise self._miscounted(
                f"{len(sent) - len(answered)} of {len(sent)} requests were not answered"
            )

    def _miscounted(self, what: str) -> ContractError:
        return ContractError(
            f"{self._model_text()}: {what}; a backend returns one per request, in order, failures included"
        )

    def _model_text(self) -> str:
        return f"model {self.model!r} ({self.backend.name})"

    def _preparer(self) -> Callable[[Request], PreparedCall]:
        """Return the function that prepares the requests of one group of calls."""
        shields = getattr(self.backend, "shields", False)
        starts: bool | None = None

        def prepare(request: Request) -> PreparedCall:
            safe = None if shields else neutral(request)
            sent = request if safe is None else safe.request

            def read(answer: Completion) -> Completion:
                nonlocal starts
                # The template ends all prompts in the same way, so one request is enough.
                if starts is None:
                    starts = self._begins_thought(sent)
                opened = starts and self._begins_thought(sent)
                done = self.thoughts.separated(answer, opened=opened)
                return done if safe is None else safe.restored(done)

            return PreparedCall(call_key(self.fingerprint, sent), sent, read)

        return prepare

    def _begins_thought(self, request: Request) -> bool:
        able = isinstance(self.backend, EndsPrompts)
        return able and self.thoughts.opens(self.backend.prompt_end(request))
