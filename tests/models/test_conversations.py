"""Conversations go on side by side, are journaled call by call, and are the same in whatever order answers come."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from nfilter import Completion, ContractError, Failure, Message, Request
from nfilter.models.proxy import JournaledModel
from nfilter.store.journal import Journal
from nfilter.testing import FakeGenerator


class OpenModel:
    """Answers in an order that ``seed`` decides; a turn of the user that ends in N is answered with N + 1."""

    name = "open"

    def __init__(self, seed: int = 0, fail: Callable[[Request], bool] = lambda _: False) -> None:
        self.random = random.Random(seed)
        self.fail = fail
        self.asked: list[Request] = []
        self.most_open = 0

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        raise AssertionError("a model with open streams is asked through them")

    def open_stream(
        self, first: Sequence[Request], more: Callable[[], Sequence[Request]]
    ) -> Iterator[tuple[int, Completion] | None]:
        waiting = dict(enumerate(first))
        count = len(waiting)
        self.asked += first
        while waiting:
            self.most_open = max(self.most_open, len(waiting))
            number = self.random.choice(sorted(waiting))
            request = waiting.pop(number)
            yield number, self.answer(request)
            for each in more():
                waiting[count] = each
                count += 1
                self.asked.append(each)
            yield None

    def answer(self, request: Request) -> Completion:
        if self.fail(request):
            return Completion("", "failed", failure=Failure("server", "down"))
        word, value = request.messages[-1].content.split()
        return Completion(f"{word} {int(value) + 1}", usd=0.5)


def begin(word: str, value: int = 0) -> Request:
    return Request((Message("user", f"{word} {value}"),), sample_id=word)


def until(limit: int, seen: list[tuple[int, str]] | None = None) -> Callable[..., Request | None]:
    """The reply that sends the answer back until it counts to ``limit``."""

    def reply(number: int, answer: Completion) -> Request | None:
        if seen is not None:
            seen.append((number, answer.text))
        if answer.failure is not None:
            return None
        word, value = answer.text.split()
        return begin(word, int(value)) if int(value) < limit else None

    return reply


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Callable[..., JournaledModel]]:
    journals = []

    def make(backend: object) -> JournaledModel:
        journal = Journal(tmp_path / "journal.db")
        journals.append(journal)
        return JournaledModel("expert", backend, "mark", journal, "a.stage")

    yield make
    for journal in journals:
        journal.close()


@pytest.mark.parametrize("seed", range(8))
def test_each_conversation_goes_on_with_its_own_answers(
    model: Callable[..., JournaledModel], seed: int
) -> None:
    backend, seen = OpenModel(seed), list[tuple[int, str]]()
    last = model(backend).converse([begin(word) for word in "abc"], until(4, seen))
    assert [each.text for each in last] == ["a 4", "b 4", "c 4"]
    for number, word in enumerate("abc"):
        assert [text for place, text in seen if place == number] == [
            f"{word} {value}" for value in range(1, 5)
        ]
    assert len(backend.asked) == 12
    assert backend.most_open == 3


def test_conversations_are_not_in_lockstep(model: Callable[..., JournaledModel]) -> None:
    """One conversation may end before another has its second answer."""
    seen: list[tuple[int, str]] = []
    backend = OpenModel()
    backend.random.choice = lambda waiting: waiting[-1]  # type: ignore[method-assign,assignment]
    model(backend).converse([begin("a"), begin("b")], until(3, seen))
    assert [text for _, text in seen] == ["b 1", "b 2", "b 3", "a 1", "a 2", "a 3"]


def test_a_call_that_was_answered_is_not_made_again(model: Callable[..., JournaledModel]) -> None:
    first = [begin(word) for word in "ab"]
    model(OpenModel()).converse(first, until(2))
    again = OpenModel()
    last = model(again).converse(first, until(5))
    assert [each.text for each in last] == ["a 5", "b 5"]
    assert sorted(each.messages[0].content for each in again.asked) == [
        "a 2", "a 3", "a 4", "b 2", "b 3", "b 4",
    ]  # fmt: skip


def test_equal_calls_of_two_conversations_are_one_and_count_for_both_samples(
    model: Callable[..., JournaledModel], tmp_path: Path
) -> None:
    backend = OpenModel()
    first = [Request((Message("user", "x 0"),), sample_id=each) for each in ("one", "two")]
    with_reply = model(backend)

    def reply(number: int, answer: Completion) -> Request | None:
        value = answer.text.split()[1]
        again = Request((Message("user", answer.text),), sample_id=("one", "two")[number])
        return again if int(value) < 3 else None

    last = with_reply.converse(first, reply)
    assert [each.text for each in last] == ["x 3", "x 3"]
    assert len(backend.asked) == 3
    journal = Journal(tmp_path / "journal.db")
    assert [len(journal.calls_for(each)) for each in ("one", "two")] == [3, 3]
    assert journal.usd() == 1.5
    journal.close()


def test_what_came_before_an_error_of_the_stage_is_kept(
    model: Callable[..., JournaledModel], tmp_path: Path
) -> None:
    def reply(number: int, answer: Completion) -> Request | None:
        if answer.text == "a 2":
            raise RuntimeError("the stage fails")
        word, value = answer.text.split()
        return begin(word, int(value))

    with pytest.raises(RuntimeError, match="the stage fails"):
        model(OpenModel()).converse([begin("a")], reply)
    journal = Journal(tmp_path / "journal.db")
    assert [each["text"] for each in journal.calls_for("a")] == ["a 1", "a 2"]
    journal.close()


def test_an_error_of_the_stage_closes_the_stream(model: Callable[..., JournaledModel]) -> None:
    """Else the calls that run go on, and cost, for as long as someone holds the error."""
    closed = []

    class Watched(OpenModel):
        def open_stream(
            self, first: Sequence[Request], more: Callable[[], Sequence[Request]]
        ) -> Iterator[tuple[int, Completion] | None]:
            try:
                yield from super().open_stream(first, more)
            finally:
                closed.append("stream")

    def reply(number: int, answer: Completion) -> Request | None:
        raise RuntimeError("the stage fails")

    with pytest.raises(RuntimeError, match="the stage fails") as held:
        model(Watched()).converse([begin("a"), begin("b")], reply)
    assert closed == ["stream"]
    del held


def test_a_failed_call_ends_as_the_stage_says_and_is_counted(
    model: Callable[..., JournaledModel], tmp_path: Path
) -> None:
    backend = OpenModel(fail=lambda request: request.messages[0].content == "b 1")
    last = model(backend).converse([begin("a"), begin("b")], until(3))
    assert [each.failure and each.failure.kind for each in last] == [None, "server"]
    journal = Journal(tmp_path / "journal.db")
    assert journal.outcomes() == {"expert": {"calls": 5, "failed": 1, "kinds": {"server": 1}}}
    journal.close()


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([0, 0], "request 0 of 1 was answered twice"),
        ([1], "request 1 of 1"),
        ([], "1 of 1 requests"),
    ],
)
def test_a_backend_that_miscounts_is_named(
    model: Callable[..., JournaledModel], numbers: list[int], message: str
) -> None:
    class Miscounts(OpenModel):
        def open_stream(
            self, first: Sequence[Request], more: Callable[[], Sequence[Request]]
        ) -> Iterator[tuple[int, Completion] | None]:
            del first
            for number in numbers:
                yield number, Completion("a 1")
                more()

    with pytest.raises(ContractError, match=message):
        model(Miscounts()).converse([begin("a")], lambda *_: None)


def test_without_open_streams_all_go_on_in_rounds(model: Callable[..., JournaledModel]) -> None:
    backend = FakeGenerator(lambda request: OpenModel().answer(request))
    last = model(backend).converse([begin("a", 2), begin("b")], until(3))
    assert [each.text for each in last] == ["a 3", "b 3"]
    assert [each.messages[0].content for each in backend.requests] == ["a 2", "b 0", "b 1", "b 2"]


def test_control_tokens_of_the_data_are_broken_in_every_turn_and_whole_in_the_answers(
    model: Callable[..., JournaledModel],
) -> None:
    class Echo(OpenModel):
        def answer(self, request: Request) -> Completion:
            return Completion(request.messages[-1].content)

    backend, texts = Echo(), list[str]()

    def reply(number: int, answer: Completion) -> Request | None:
        texts.append(answer.text)
        return Request((Message("user", answer.text + "!"),)) if len(texts) < 3 else None

    model(backend).converse([Request((Message("user", "<|im_end|>"),))], reply)
    assert [each.messages[0].content for each in backend.asked] == [
        "< |im_end|>", "< |im_end|>!", "< |im_end|>!!",
    ]  # fmt: skip
    assert texts == ["<|im_end|>", "<|im_end|>!", "<|im_end|>!!"]
