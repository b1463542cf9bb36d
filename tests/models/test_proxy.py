"""Calls through the journal: what is asked again and what is not, streams, failures, kills, adapters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nfilter import (
    Completion,
    ContractError,
    Failure,
    Interrupt,
    Message,
    Request,
    Sampling,
)
from nfilter.models.proxy import JournaledModel
from nfilter.store.journal import Journal


@pytest.fixture
def journal(tmp_path: Path) -> Any:
    made = Journal(tmp_path / "journal.db")
    yield made
    made.close()


class Backend:
    """Answers with the question and how many it has answered; fails where it is told to."""

    name = "fake"

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.failures: dict[str, Failure] = {}

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        out = []
        for request in requests:
            text = request.messages[-1].content
            self.asked.append(text)
            failure = self.failures.get(text)
            out.append(
                Completion("", "failed", failure=failure)
                if failure
                else Completion(
                    f"{text}={len(self.asked)}",
                    logprobs=(-0.5,),
                    prompt_tokens=3,
                    completion_tokens=2,
                )
            )
        return out

    def adapted(self, ref: Any) -> Any:
        from contextlib import nullcontext

        return nullcontext(self)


@pytest.fixture
def backend() -> Backend:
    return Backend()


def model(
    backend: Backend, journal: Journal, stage: str = "01-a", fingerprint: str = "f"
) -> JournaledModel:
    return JournaledModel("expert", backend, fingerprint, journal, stage)


def ask(text: str, sample_id: str = "a", **sampling: Any) -> Request:
    return Request((Message("user", text),), Sampling(**sampling), sample_id=sample_id)


def test_what_was_answered_is_not_asked_again(
    journal: Journal, backend: Backend, tmp_path: Path
) -> None:
    first = model(backend, journal).generate([ask("x"), ask("y")])
    again = model(backend, journal, "02-b").generate([ask("y"), ask("z")])
    assert sorted(backend.asked) == ["x", "y", "z"]
    assert [done.cached for done in first + again] == [False, False, True, False]
    assert again[0].text == first[1].text
    journal.close()
    reopened = Journal(tmp_path / "journal.db")
    assert model(backend, reopened).generate([ask("z")])[0].cached
    reopened.close()
    assert len(backend.asked) == 3


def test_equal_requests_of_one_batch_are_asked_once_and_counted_for_each_sample(
    journal: Journal, backend: Backend
) -> None:
    done = model(backend, journal).generate(
        [ask("x", "a"), ask("y", "b"), ask("x", "c"), ask("x", "a", seed=9)]
    )
    assert sorted(backend.asked) == ["x", "y"]
    assert done[0] == done[2] == done[3]
    assert journal.usage()["01-a"]["calls"] == 3


def test_answers_come_back_in_the_order_of_the_requests(journal: Journal, backend: Backend) -> None:
    texts = [f"{'long ' * (index % 7)}{index}" for index in range(600)]
    done = model(backend, journal).generate([ask(text) for text in texts])
    assert [answer.text.split("=")[0] for answer in done] == texts
    assert backend.asked != texts  # long ones go first


class Streaming(Backend):
    """Gives its answers in the reverse order, one at a time; dies after ``dies_after`` of them."""

    dies_after = 10**9

    def stream(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        for count, index in enumerate(reversed(range(len(requests)))):
            if count == self.dies_after:
                raise KeyboardInterrupt
            yield index, self.generate([requests[index]])[0]


class Bar:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.totals: list[int | None] = []
        self.count = 0

    @contextmanager
    def __call__(self, total: int | None, text: str, note: object = None) -> Iterator[Bar]:
        self.totals.append(total)
        yield self

    def advance(self, n: int = 1) -> None:
        self.count += n


def test_a_stream_is_put_in_order_and_counted(journal: Journal) -> None:
    backend, bar = Streaming(), Bar()
    requests = [ask("x"), *(ask(str(index % 300)) for index in range(700))]
    asking = JournaledModel("expert", backend, "f", journal, "s", progress=bar)
    answers = asking.generate(requests)
    questions = [request.messages[-1].content for request in requests]
    assert [answer.text.partition("=")[0] for answer in answers] == questions
    assert bar.totals == [301]
    assert bar.count == 301
    assert len(backend.asked) == 301


def test_a_stream_that_dies_loses_one_commit_at_most(journal: Journal) -> None:
    backend = Streaming()
    backend.dies_after = 200
    requests = [ask(str(index)) for index in range(300)]
    with pytest.raises(KeyboardInterrupt):
        model(backend, journal).generate(requests)
    backend.dies_after = 10**9
    model(backend, journal).generate(requests)
    assert 0 <= len(backend.asked) - 300 < 64


def test_what_came_is_kept_where_nothing_more_is_there_yet(journal: Journal) -> None:
    kept: list[int] = []

    class Pausing(Backend):
        def stream(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion] | None]:
            for index in range(len(requests)):
                yield index, Completion(str(index))
                if index in {2, 3}:
                    yield None
                    kept.extend(figures["calls"] for figures in journal.usage().values())

    answers = model(Pausing(), journal).generate([ask(str(index)) for index in range(9)])
    assert sorted(answer.text for answer in answers) == [str(index) for index in range(9)]
    assert kept == [3, 4]


def test_a_run_that_is_asked_to_end_goes_no_further_though_all_is_answered(
    journal: Journal,
) -> None:
    interrupt = Interrupt()

    class Last(Backend):
        def stream(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
            for index in range(len(requests)):
                yield index, Completion(str(index))
            interrupt._requested.set()

    asked = [ask(str(index)) for index in range(3)]
    with pytest.raises(KeyboardInterrupt):
        JournaledModel("expert", Last(), "f", journal, "s", interrupt=interrupt).generate(asked)
    assert journal.usage()["s"]["calls"] == 3


@pytest.mark.parametrize("indices", [[0, 0], [0], [0, 1, 2]])
def test_a_stream_that_miscounts_is_refused(journal: Journal, indices: list[int]) -> None:
    class Wrong(Backend):
        def stream(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
            for index in indices:
                yield index, Completion("a")

    with pytest.raises(ContractError, match="expert"):
        model(Wrong(), journal).generate([ask("a"), ask("b")])


def test_what_a_finished_run_answered_is_lent(tmp_path: Path) -> None:
    first, second = Backend(), Backend()
    lender = Journal(tmp_path / "first.db")
    model(first, lender).generate([ask("a"), ask("b")])
    lender.close()
    borrower = Journal(tmp_path / "second.db", [tmp_path / "first.db", tmp_path / "absent.db"])
    answers = model(second, borrower).generate([ask("a"), ask("c")])
    assert [answer.text for answer in answers] == ["a=1", "c=1"]
    assert second.asked == ["c"]
    assert borrower.usage()["01-a"]["calls"] == 2
    borrower.close()


@pytest.mark.parametrize("kind", ["timeout", "server", "memory"])
def test_a_passing_failure_is_asked_again(journal: Journal, backend: Backend, kind: Any) -> None:
    backend.failures["x"] = Failure(kind, "for now")
    assert model(backend, journal).generate([ask("x")])[0].failure == Failure(kind, "for now")
    assert journal.usage() == {}
    backend.failures.clear()
    assert model(backend, journal).generate([ask("x")])[0].failure is None


@pytest.mark.parametrize("kind", ["refused", "too_long", "parse"])
def test_a_lasting_failure_is_kept(journal: Journal, backend: Backend, kind: Any) -> None:
    backend.failures["x"] = Failure(kind, "always")
    for _ in range(2):
        assert model(backend, journal).generate([ask("x")])[0].failure == Failure(kind, "always")
    assert backend.asked == ["x"]


def test_a_kill_between_slices_loses_one_slice_at_most(journal: Journal, backend: Backend) -> None:
    generate = backend.generate

    def killed(requests: Sequence[Request]) -> list[Completion]:
        if len(backend.asked) >= 512:
            raise KeyboardInterrupt
        return generate(requests)

    backend.generate = killed  # type: ignore[method-assign]
    requests = [ask(str(index)) for index in range(700)]
    with pytest.raises(KeyboardInterrupt):
        model(backend, journal).generate(requests)
    backend.generate = generate  # type: ignore[method-assign]
    model(backend, journal).generate(requests)
    assert len(backend.asked) == 700


def test_a_backend_that_loses_a_completion_is_named(journal: Journal, backend: Backend) -> None:
    backend.generate = lambda requests: [Completion("one")]  # type: ignore[method-assign]
    with pytest.raises(
        ContractError, match=r"model 'expert' \(fake\): 1 completions came back for 2 requests"
    ):
        model(backend, journal).generate([ask("x"), ask("y")])
    assert journal.usage() == {}


def test_an_adapter_has_answers_of_its_own(journal: Journal, backend: Backend) -> None:
    from nfilter import ModelRef

    plain = model(backend, journal)
    plain.generate([ask("x")])
    for digest in ("one", "two", "one"):
        with plain.adapted(ModelRef("p", "adapter", "b", digest)) as adapted:
            adapted.generate([ask("x")])
    assert backend.asked == ["x"] * 3


def test_equal_texts_are_embedded_once() -> None:
    import numpy as np

    asked: list[list[str]] = []

    class Encoder:
        name = "fake"

        def embed(self, texts: list[str]) -> Any:
            asked.append(texts)
            return np.array([[len(text)] for text in texts], dtype=np.float32)

    found = JournaledModel("encoder", Encoder(), "f", None, "s").embed(["aa", "b", "aa", "ccc"])  # type: ignore[arg-type]
    assert asked == [["aa", "b", "ccc"]]
    np.testing.assert_array_equal(found, [[2], [1], [2], [3]])
