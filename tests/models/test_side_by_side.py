"""Agents of several models go on side by side, and their journals do not depend on whose answers come first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from nfilter import Agent, Completion, Message, ModelError, Request, run_agents
from nfilter.api.interrupt import Interrupt
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

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        self.asked += [request.messages[0].content for request in requests]
        return [Completion(self.name) for _ in requests]


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


def test_an_error_of_one_model_ends_the_calls_of_the_others(
    model: Callable[..., JournaledModel],
) -> None:
    one = Slow("one")
    one.other = Local("never asked")
    with pytest.raises(ModelError, match="down"):
        run_agents([model(one), model(Down("down"))], [agent("0"), agent("1")])
    assert one.closed


def test_models_are_one_per_agent(model: Callable[..., JournaledModel]) -> None:
    with pytest.raises(ValueError, match="is longer"):
        run_agents([model(Local("one"))], [agent("0"), agent("1")])
