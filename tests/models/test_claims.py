"""Two processes that run one stage: equal calls are made once, also in conversations, and neither waits for the other for ever."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from nfilter import Completion, Failure, Interrupt, Message, Request, StoreError
from nfilter.api.interrupt import Interrupted
from nfilter.engine.ranks.calls import SharedCalls
from nfilter.engine.ranks.place import Place
from nfilter.engine.ranks.waiting import Waiting
from nfilter.models import claims
from nfilter.models.proxy import JournaledModel
from nfilter.store.claims import ClaimFolder
from nfilter.store.journal import Journal, call_key


class Server:
    """What both processes ask. ``asked`` counts every question; ``fails`` are questions whose first call fails in passing."""

    def __init__(self, fails: Sequence[str] = ()) -> None:
        self.asked: Counter[str] = Counter()
        self.fails = list(fails)
        self.lock = threading.Lock()

    def answer(self, request: Request) -> Completion:
        text = " / ".join(message.content for message in request.messages)
        with self.lock:
            self.asked[text] += 1
            if text in self.fails:
                self.fails.remove(text)
                return Completion("", "failed", failure=Failure("server", "try again"))
        return Completion(f"<{text}>")


class Batches:
    """A backend that answers in batches; ``between`` is called before each."""

    name = "batches"

    def __init__(self, server: Server, between: Callable[[], object]) -> None:
        self.server, self.between = server, between

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        self.between()
        return [self.server.answer(request) for request in requests]


class Streams(Batches):
    """A backend of open streams: it answers one request at a time, the last one first."""

    name = "streams"

    def open_stream(
        self, first: Sequence[Request], more: Callable[[], Sequence[Request]]
    ) -> Iterator[tuple[int, Completion] | None]:
        waiting = list(enumerate(first))
        count = len(first)
        while waiting:
            self.between()
            yield None
            number, request = waiting.pop()
            yield number, self.server.answer(request)
            for request in more():
                waiting.append((count, request))
                count += 1


def request(text: str, *before: str) -> Request:
    roles = ("user", "assistant")
    words = (*before, text)
    return Request(
        tuple(Message(roles[n % 2], word) for n, word in enumerate(words)), sample_id=text
    )


class Pair:
    """Two processes in threads, each with a journal and a model of its own."""

    def __init__(self, home: Path, server: Server, kind: type[Batches]) -> None:
        # Each makes a call only when the other one has claimed something too, so that they wait for each other.
        both = threading.Barrier(2)
        self.results: dict[int, object] = {}
        self.errors: list[BaseException] = []
        self.models: list[JournaledModel] = []
        self.journals: list[Journal] = []
        for rank in range(2):
            met: list[int] = []

            def meet(met: list[int] = met) -> None:
                if not met:
                    met.append(1)
                    both.wait(60)

            self.journals.append(Journal(home / f"{rank}.db"))
            calls = SharedCalls(home, "01-x", Place(rank, 2), Waiting(lambda _: None), lambda _: None)  # fmt: skip
            self.models.append(
                JournaledModel(
                    "m", kind(server, meet), "mark", self.journals[-1], "01-x",
                    interrupt=Interrupt(), claims=calls,
                )
            )  # fmt: skip

    def run(self, work: Callable[[int, JournaledModel], object]) -> list[object]:
        def one(rank: int) -> None:
            try:
                self.results[rank] = work(rank, self.models[rank])
            except BaseException as error:  # noqa: BLE001 (the test looks at it)
                self.errors.append(error)

        threads = [threading.Thread(target=one, args=(rank,), daemon=True) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert self.errors == []
        return [self.results[rank] for rank in range(2)]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Callable[..., Pair]]:
    made: list[Pair] = []

    def make(server: Server, kind: type[Batches]) -> Pair:
        made.append(Pair(tmp_path, server, kind))
        return made[-1]

    yield make
    for each in made:
        for journal in each.journals:
            journal.close()


SHARED = [["a", "b", "both", "c"], ["x", "both", "y", "a"]]


@pytest.mark.parametrize("kind", [Batches, Streams])
def test_both_have_all_answers_and_each_call_is_made_once(
    pair: Callable[..., Pair], kind: type[Batches]
) -> None:
    server = Server()
    two = pair(server, kind)
    results = two.run(
        lambda rank, model: [
            done.text for done in model.converse([request(t) for t in SHARED[rank]], lambda *_: None)
        ]
    )  # fmt: skip
    assert results == [[f"<{text}>" for text in texts] for texts in SHARED]
    assert server.asked == Counter(["a", "b", "both", "c", "x", "y"])
    # Each journal has the answers that its process used, and no call is counted by two processes as paid.
    assert [journal.answers() for journal in two.journals] == [4, 4]


@pytest.mark.parametrize("kind", [Batches, Streams])
def test_conversations_whose_answers_another_process_gets_go_on(
    pair: Callable[..., Pair], kind: type[Batches]
) -> None:
    server = Server()

    def talk(rank: int, model: JournaledModel) -> list[str]:
        texts, turns = SHARED[rank], Counter[int]()

        def reply(number: int, done: Completion) -> Request | None:
            turns[number] += 1
            history = (texts[number], done.text)
            return request("go on", *history) if turns[number] == 1 else None

        return [done.text for done in model.converse([request(text) for text in texts], reply)]

    results = pair(server, kind).run(talk)
    assert results == [[f"<{text} / <{text}> / go on>" for text in texts] for texts in SHARED]
    assert set(server.asked.values()) == {1}
    assert len(server.asked) == 12


@pytest.mark.parametrize("kind", [Batches, Streams])
def test_a_call_that_fails_in_passing_is_made_by_the_process_that_waits(
    pair: Callable[..., Pair], kind: type[Batches]
) -> None:
    server = Server(fails=["both"])
    results = pair(server, kind).run(
        lambda rank, model: [
            done.text for done in model.converse([request(t) for t in SHARED[rank]], lambda *_: None)
        ]
    )  # fmt: skip
    # One process has the failure as its answer, as in a run of one process; the other one has asked again.
    assert sorted(str(result) for result in results).count("<both>") <= 1
    assert server.asked["both"] == 2
    assert {text for text, count in server.asked.items() if count == 1} == {"a", "b", "c", "x", "y"}


def test_answers_are_published_while_a_process_waits_for_others(
    pair: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    # With answers published at the end of a group alone, two streams that wait for each other would wait for ever.
    monkeypatch.setattr(claims, "_SECONDS", 1e9)
    server = Server()
    texts = [["p", "q"], ["q", "p"]]

    def talk(rank: int, model: JournaledModel) -> list[str]:
        said: list[str] = []

        def reply(_: int, done: Completion) -> Request | None:
            said.append(done.text)
            return request(texts[rank][1]) if len(said) == 1 else None

        model.converse([request(texts[rank][0])], reply)
        return said

    results = pair(server, Streams).run(talk)
    assert results == [["<p>", "<q>"], ["<q>", "<p>"]]
    assert server.asked == Counter(["p", "q"])


class Rank:
    """One process of two, with a journal, claims and an interrupt of its own."""

    def __init__(self, home: Path, rank: int, sleep: Callable[[float], None]) -> None:
        self.journal = Journal(home / f"{rank}.db")
        self.interrupt = Interrupt()
        self.folder = ClaimFolder(home / "ranks/calls/01-x", rank)
        place, waiting = Place(rank, 2), Waiting(lambda _: None, sleep=sleep)
        self.calls = SharedCalls(home, "01-x", place, waiting, lambda _: None)

    def model(self, kind: type[Batches], server: Server) -> JournaledModel:
        return JournaledModel(
            "m", kind(server, lambda: None), "mark", self.journal, "01-x",
            interrupt=self.interrupt, claims=self.calls,
        )  # fmt: skip


def no_sleep(_: float) -> None:
    raise AssertionError("it waits")


@pytest.fixture
def rank(tmp_path: Path) -> Iterator[Callable[..., Rank]]:
    made: list[Rank] = []

    def make(number: int, sleep: Callable[[float], None] = no_sleep) -> Rank:
        made.append(Rank(tmp_path, number, sleep))
        return made[-1]

    yield make
    for each in made:
        each.journal.close()


def texts(model: JournaledModel, *asked: str) -> list[str]:
    return [
        done.text for done in model.converse([request(text) for text in asked], lambda *_: None)
    ]


@pytest.mark.parametrize("kind", [Batches, Streams])
def test_if_answers_cannot_be_committed_no_claim_stays_and_another_process_makes_the_calls(
    rank: Callable[..., Rank], monkeypatch: pytest.MonkeyPatch, kind: type[Batches]
) -> None:
    one, other = rank(0), rank(1)
    server = Server()
    full = [True]
    commit = one.journal.commit

    def limited(answers: Sequence[object], *more: object) -> None:
        if answers and full:
            raise StoreError("journal.db: cannot be written (database or disk is full)")
        commit(answers, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(one.journal, "commit", limited)
    with pytest.raises(StoreError, match="disk is full"):
        texts(one.model(kind, server), "a", "b")
    assert one.folder.unsettled(2) == []
    # Nothing was published that the journal of its process does not have.
    server.asked.clear()
    assert texts(other.model(kind, server), "a", "b") == ["<a>", "<b>"]
    assert server.asked == Counter(a=1, b=1)


@pytest.mark.parametrize("kind", [Batches, Streams])
def test_answers_that_a_first_commit_did_not_take_are_committed_at_the_end(
    rank: Callable[..., Rank], monkeypatch: pytest.MonkeyPatch, kind: type[Batches]
) -> None:
    """The disk is full for a moment: the run ends, and no answer is asked for again."""
    one, server = rank(0), Server()
    errors = [StoreError("full")]
    commit = one.journal.commit

    def once(answers: Sequence[object], *more: object) -> None:
        if answers and errors:
            raise errors.pop()
        commit(answers, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(one.journal, "commit", once)
    with pytest.raises(StoreError, match="full"):
        texts(one.model(kind, server), "a", "b")
    came = sum(server.asked.values())
    assert one.journal.answers() == came > 0
    assert texts(one.model(kind, server), "a", "b") == ["<a>", "<b>"]
    assert server.asked == Counter(a=1, b=1)


@pytest.mark.parametrize("kind", [Batches, Streams])
def test_an_interrupt_just_after_a_claim_leaves_none_and_those_of_others_stay(
    rank: Callable[..., Rank], monkeypatch: pytest.MonkeyPatch, kind: type[Batches]
) -> None:
    one, other, server = rank(0), rank(1), Server()
    mine = one.model(kind, server)
    other.calls.take([call_key("mark", request("b"))])

    def interrupted(point: str) -> None:
        if point == "calls.claimed":
            raise KeyboardInterrupt

    monkeypatch.setattr("nfilter.store.claims.reach", interrupted)
    with pytest.raises(KeyboardInterrupt):
        texts(mine, "a", "b", "c")
    monkeypatch.undo()
    assert one.folder.unsettled(2) == []
    assert other.folder.unsettled(2) == [call_key("mark", request("b"))]
    assert texts(other.model(kind, server), "a", "b", "c") == ["<a>", "<b>", "<c>"]


@pytest.mark.parametrize("kind", [Batches, Streams])
def test_a_wait_for_others_ends_when_the_run_is_to_end(
    rank: Callable[..., Rank], monkeypatch: pytest.MonkeyPatch, kind: type[Batches]
) -> None:
    """Calls of an API run beside it, so that a first Ctrl-C raises nothing by itself."""
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        assert len(looks) < 5
        one.interrupt._requested.set()

    one, other, server = rank(0, sleep), rank(1), Server()
    monkeypatch.setattr(claims, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    other.calls.take([call_key("mark", request("b"))])
    with pytest.raises(Interrupted):
        texts(one.model(kind, server), "a", "b")
    assert looks
    assert one.folder.unsettled(2) == []
    assert server.asked == Counter(a=1)
    assert one.journal.answers() == 1
