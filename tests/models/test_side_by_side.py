"""Agents of several models go on side by side, and their journals do not depend on whose answers come first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from nfilter import Agent, Completion, Message, ModelError, Request, run_agents
from nfilter.api.interrupt import Interrupt, Interrupted
from nfilter.models.proxy import JournaledModel
from nfilter.store.journal import Journal

MOST = 100  # steps without an answer, after which a model counts as waiting for ever


class Slow:
    """A model over an API: it answers nothing before ``other`` has been asked as often as itself."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[str] = []
        self.other: Slow | Local | None = None
        self.closed = False
        self.idle = 0
        self.at_the_end: Callable[[], None] = lambda: None

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        raise AssertionError("asked in batches")

    def open_stream(
        self, first: Sequence[Request], more: Callable[[], Sequence[Request]]
    ) -> Iterator[tuple[int, Completion] | None]:
        waiting = list(enumerate(first))
        self.asked += [request.messages[0].content for request in first]
        count = len(first)
        try:
            while waiting:
                for _ in range(MOST):
                    if self.other is None or len(self.other.asked) >= len(self.asked):
                        break
                    yield None
                else:
                    raise AssertionError(f"{self.name}: the other model is not asked meanwhile")
                number, _ = waiting.pop(0)
                yield number, Completion(self.name)
                for _ in range(self.idle):
                    yield None
                for request in more():
                    waiting.append((count, request))
                    self.asked.append(request.messages[0].content)
                    count += 1
            self.at_the_end()
        finally:
            self.closed = True


class Local:
    """A local model, which answers in batches."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[str] = []
        self.after: Callable[[], None] = lambda: None

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        self.asked += [request.messages[0].content for request in requests]
        self.after()
        return [Completion(self.name) for _ in requests]


class Capped(Slow):
    """A model over an API that runs ``most`` calls at once, and answers only once no further one may start."""

    def __init__(self, name: str, most: int) -> None:
        super().__init__(name)
        self.most = most
        self.interrupt: Interrupt | None = None

    def open_stream(
        self, first: Sequence[Request], more: Callable[[], Sequence[Request]]
    ) -> Iterator[tuple[int, Completion] | None]:
        if self.interrupt is None:
            yield from super().open_stream(first, more)
            return
        running = first[: self.most]
        self.asked += [request.messages[0].content for request in running]
        try:
            for _ in range(MOST):
                if self.interrupt.requested:
                    break
                yield None
            else:
                raise AssertionError(f"{self.name}: it was not told to end")
            for number in range(len(running)):
                yield number, Completion(self.name)
                assert not more(), "a request after the error"
        finally:
            self.closed = True


class Down(Local):
    """A model that cannot be reached."""

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        raise ModelError("down")


def agent(text: str, rounds: int = 1) -> Agent:
    return Agent(Request((Message("user", text),), sample_id=text), rounds=rounds)


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Callable[..., JournaledModel]]:
    journal = Journal(tmp_path / "journal.db")
    interrupt = Interrupt()

    def make(backend: Slow | Local) -> JournaledModel:
        return JournaledModel(
            backend.name,
            backend,
            f"mark of {backend.name}",
            journal,
            "a.stage",
            interrupt=interrupt,
        )

    yield make
    journal.close()


def again(times: int) -> Callable[..., Agent | None]:
    """Ask each agent ``times`` times."""
    counts: dict[int, int] = {}

    def following(number: int, _: object) -> Agent | None:
        counts[number] = counts.get(number, 1) + 1
        return agent(f"{number}, attempt {counts[number]}") if counts[number] <= times else None

    return following


def test_each_model_is_asked_while_the_other_one_answers(
    model: Callable[..., JournaledModel],
) -> None:
    one, two = Slow("one"), Slow("two")
    one.other, two.other = two, one
    models = [model(one), model(two), model(two), model(one)]
    runs = run_agents(models, [agent(str(n)) for n in range(4)], again(3))
    assert [run.completion.text for run in runs] == ["one", "two", "two", "one"]
    assert sorted(one.asked) == ["0", "0, attempt 2", "0, attempt 3", "3", "3, attempt 2", "3, attempt 3"]  # fmt: skip
    assert len(two.asked) == 6


def test_a_local_model_computes_while_calls_of_an_api_run(
    model: Callable[..., JournaledModel],
) -> None:
    far, near = Slow("far"), Local("near")
    far.other = near
    runs = run_agents([model(near), model(far)], [agent("0"), agent("1")], again(2))
    assert [run.completion.text for run in runs] == ["near", "far"]


def test_another_run_asks_nothing_and_has_the_same_answers(
    model: Callable[..., JournaledModel],
) -> None:
    one, two = Slow("one"), Slow("two")
    agents = [agent(str(n)) for n in range(4)]
    first = run_agents([model(one), model(two)] * 2, agents, again(2))
    counted = len(one.asked), len(two.asked)
    # The other way round, the models answer in another order.
    second = run_agents([model(one), model(two)] * 2, agents, again(2))
    assert [run.to_json() for run in first] == [run.to_json() for run in second]
    assert (len(one.asked), len(two.asked)) == counted


def test_after_a_first_interrupt_each_model_takes_its_running_answers(
    model: Callable[..., JournaledModel],
) -> None:
    one, two = Slow("one"), Slow("two")
    asked = model(one)
    interrupt = asked.interrupt
    one.at_the_end = interrupt._requested.set
    with pytest.raises(KeyboardInterrupt):
        run_agents([asked, model(two), model(two)], [agent(str(n)) for n in range(3)])
    assert two.asked == ["1", "2"]
    interrupt._requested.clear()
    run_agents([asked, model(two), model(two)], [agent(str(n)) for n in range(3)])
    assert two.asked == ["1", "2"], "its answers were in the journal"


@pytest.mark.parametrize("by", ["model", "stage"])
def test_an_error_of_one_model_ends_the_others_when_their_running_calls_are_answered(
    model: Callable[..., JournaledModel], by: str
) -> None:
    """The other model answers nothing before it is told that none of its waiting calls may start."""
    one, two = Capped("one", 2), Down("down") if by == "model" else Local("two")
    far = model(one)
    one.interrupt = far.interrupt

    def fails(number: int, _: object) -> None:
        raise RuntimeError("the stage fails")

    models = [far] * 5 + [model(two)]
    texts = [str(n) for n in range(6)]
    with pytest.raises((ModelError, RuntimeError), match="down" if by == "model" else "fails"):
        run_agents(models, [agent(text) for text in texts], fails)
    assert one.asked == ["0", "1"]
    assert one.closed
    assert not far.interrupt.requested
    one.interrupt = None
    run_agents([far] * 5, [agent(text) for text in texts[:5]])
    assert one.asked == texts[:5]


def test_after_an_interrupt_a_local_model_begins_no_further_round(
    model: Callable[..., JournaledModel],
) -> None:
    far, near = Slow("far"), Local("near")
    far.other = near
    asked = model(far)
    near.after = asked.interrupt._requested.set
    with pytest.raises(Interrupted):
        run_agents([asked, model(near)], [agent("0"), agent("1")], again(3))
    assert near.asked == ["1"]
    asked.interrupt._requested.clear()
    near.after = lambda: None
    run_agents([asked, model(near)], [agent("0"), agent("1")], again(3))
    assert near.asked == ["1", "1, attempt 2", "1, attempt 3"]


def test_an_error_of_the_stage_outranks_the_interrupts_that_follow_from_it(
    model: Callable[..., JournaledModel],
) -> None:
    """The model that is told to end does so before the one whose answer the stage failed on."""
    one, two = Capped("one", 1), Slow("two")
    far = model(one)
    one.interrupt = far.interrupt

    def fails(number: int, _: object) -> Agent | None:
        if number == 0:
            raise RuntimeError("the stage fails")
        return agent("again")

    two.idle = 5
    with pytest.raises(RuntimeError, match="the stage fails"):
        run_agents([model(two), far, far], [agent("0"), agent("1"), agent("2")], fails)


def test_models_are_one_per_agent(model: Callable[..., JournaledModel]) -> None:
    with pytest.raises(ValueError, match="is longer"):
        run_agents([model(Local("one"))], [agent("0"), agent("1")])
