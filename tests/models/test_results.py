"""Capabilities that plugins define: what is stored, what is called again, and what is refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from nfilter_judges.capabilities import Entails, Rewards

from nfilter import (
    Abilities,
    Budget,
    ContractError,
    Embeds,
    Interrupt,
    Message,
    ModelError,
    ModelRef,
    Needs,
    Price,
    Sample,
    Scores,
    StageConfig,
    capability,
)
from nfilter.models.proxy import JournaledModel
from nfilter.models.results import _looked_up, _packed, _unpacked
from nfilter.store.journal import Journal, paid_in
from nfilter.testing import FakeContext, check_backend


@capability(each=False)
class Compares(Protocol):
    """One result per call."""

    def compare(self, texts: Sequence[str], *, scale: float = 1.0) -> Any: ...


@capability(cached=False)
class Draws(Protocol):
    """Results that are never stored."""

    def draw(self, texts: Sequence[str]) -> list[object]: ...


class Judge:
    """Has every capability; counts the calls and the items."""

    name = "judge"

    def __init__(self, give: Callable[[Sequence[Any]], Any] | None = None) -> None:
        self.give = give or (lambda items: [float(len(each)) for each in items])
        self.asked: list[list[Any]] = []

    def reward(self, texts: Sequence[str]) -> Any:
        self.asked.append(list(texts))
        return self.give(texts)

    def entail(self, pairs: Sequence[tuple[str, str]]) -> Any:
        return self.reward(pairs)  # type: ignore[arg-type]

    def compare(self, texts: Sequence[str], *, scale: float = 1.0) -> Any:
        return {"scale": scale, "of": self.reward(texts)}

    def draw(self, texts: Sequence[str]) -> list[object]:
        return [object() for _ in texts]


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Callable[..., JournaledModel]]:
    opened: list[Journal] = []

    def make(
        backend: Any, *, run: str = "journal", lenders: Sequence[Path] = (), **more: Any
    ) -> Any:
        opened.append(Journal(tmp_path / f"{run}.db", lenders))
        return JournaledModel(
            "m", backend, more.pop("fingerprint", "f"), opened[-1], "01-a.b", **more
        )

    yield make
    for journal in opened:
        journal.close()


def test_each_item_is_called_once_for_all_stages_and_reruns(model: Any) -> None:
    judge = Judge()
    assert model(judge).use(Rewards).reward(["aa", "b", "aa"]) == [2.0, 1.0, 2.0]
    assert model(judge).use(Rewards).reward(texts=["ccc", "b"]) == [3.0, 1.0]
    assert judge.asked == [["aa", "b"], ["ccc"]]
    # Another method, other weights: another result.
    model(judge).use(Entails).entail([("aa", "b")])
    model(judge, fingerprint="g").use(Rewards).reward(["b"])
    assert judge.asked[2:] == [[("aa", "b")], ["b"]]


def test_what_came_before_an_error_is_stored(model: Any) -> None:
    def give(items: Sequence[str]) -> list[float]:
        if "70" in items:
            raise RuntimeError("broke")
        return [float(each) for each in items]

    texts = [str(n) for n in range(150)]
    with pytest.raises(RuntimeError):
        model(Judge(give)).use(Rewards).reward(texts)
    judge = Judge()
    judge.give = lambda items: [float(each) for each in items]
    assert model(judge).use(Rewards).reward(texts) == [float(n) for n in range(150)]
    assert [len(part) for part in judge.asked] == [64, 22]
    assert judge.asked[0][0] == "64"


def test_an_interrupted_run_begins_no_further_call(model: Any) -> None:
    interrupt = Interrupt()

    def give(items: Sequence[str]) -> list[float]:
        interrupt._requested.set()
        return [1.0] * len(items)

    judge = Judge(give)
    texts = [str(n) for n in range(100)]
    with pytest.raises(KeyboardInterrupt):
        model(judge, interrupt=interrupt).use(Rewards).reward(texts)
    assert [len(part) for part in judge.asked] == [64]
    again = Judge()
    model(again).use(Rewards).reward(texts)
    assert [len(part) for part in again.asked] == [36]


@pytest.mark.parametrize(
    "value",
    [1, 1.5, True, None, "a\ud800", [1, [2]], {"a": {"b": [None]}}, np.arange(6, dtype=np.int8).reshape(2, 3), np.float32([0.5, np.nan]), np.zeros((0, 2))],
)  # fmt: skip
def test_a_result_comes_back_with_its_type(value: Any) -> None:
    (back, row) = _unpacked(_packed(value))
    assert type(back) is type(value)
    assert not row
    if isinstance(value, np.ndarray):
        assert back.dtype == value.dtype
        np.testing.assert_array_equal(back, value)
        assert back.flags.writeable
    else:
        assert back == value


def test_the_first_result_has_the_types_of_the_stored_one(model: Any) -> None:
    judge = Judge(lambda items: tuple((np.float64(0.5), {"n": np.int64(len(i))}) for i in items))
    first = model(judge).use(Rewards).reward(["ab"])
    assert first == [[0.5, {"n": 2}]]
    assert type(first[0][1]["n"]) is int
    assert model(judge).use(Rewards).reward(["ab"]) == first


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_an_array_comes_back_as_one_array(model: Any, shape: tuple[int, ...]) -> None:
    def give(items: Sequence[str]) -> Any:
        return np.stack([np.full(shape, float(each), dtype=np.float32) for each in items])

    judge = Judge(give)
    model(judge).use(Entails).entail(["1", "2"])
    rows = model(judge).use(Entails).entail(["3", "2", "1"])
    assert judge.asked == [["1", "2"], ["3"]]
    assert (rows.shape, rows.dtype) == ((3, *shape), np.float32)
    np.testing.assert_array_equal(rows.reshape(3, -1)[:, 0], [3, 2, 1])


def test_a_call_with_one_result_is_stored_as_a_whole(model: Any) -> None:
    judge = Judge()
    asked = model(judge).use(Compares)
    assert asked.compare(["a", "bb"], scale=2.0) == {"scale": 2.0, "of": [1.0, 2.0]}
    assert model(judge).use(Compares).compare(["a", "bb"], scale=2.0)["of"] == [1.0, 2.0]
    assert len(judge.asked) == 1
    asked.compare(["a", "bb"], scale=3.0)
    asked.compare(["bb", "a"], scale=2.0)
    assert len(judge.asked) == 3


def test_what_is_not_cached_is_passed_on_as_it_is(model: Any) -> None:
    (one,), (other,) = (model(Judge()).use(Draws).draw(["a"]) for _ in range(2))
    assert type(one) is object
    assert one is not other


SAMPLE = Sample("a", (Message("user", "q"), Message("assistant", "r")), notes={"x": {"n": 1}})


def test_arguments_that_differ_are_looked_up_apart() -> None:
    values: list[Any] = [
        1, 1.0, True, None, "1", [1], {"a": 1}, [["a", 1]], float("nan"), np.array([1]), np.array([1.0]),
        np.array([[1]]), SAMPLE, SAMPLE.note("x", 2), SAMPLE.relabel("s", "why"), {"fields": 1}, ["list", [1]],
    ]  # fmt: skip
    from nfilter.store.files import canonical

    keys = [canonical(_looked_up(value)) for value in values]
    assert len(set(keys)) == len(values)
    assert keys == [canonical(_looked_up(value)) for value in values]
    assert _looked_up((1, 2)) == _looked_up([1, 2])
    assert _looked_up({"a": 1, "b": 2}) == _looked_up({"b": 2, "a": 1})


class Other:
    """Neither JSON nor an array."""


@pytest.mark.types(
    "write @capability(each=False) where a call has one result as a whole",
    "or write @capability(cached=False)",
    "return one result per item, in order",
)
@pytest.mark.parametrize(
    ("give", "says"),
    [
        (lambda items: 0.5, r"Rewards\.reward returned float for 2 items; return one result per item"),
        (lambda items: [1.0], r"returned 1 results for 2 items"),
        (lambda items: np.float32(1), r"returned float32 for 2 items"),
        (lambda items: [Other()] * 2, r"returned a Other, which cannot be stored.*@capability\(cached=False\)"),
        (lambda items: [float("nan")] * 2, r"returned nan, which JSON does not have"),
        (lambda items: [{1: 2}] * 2, r"returned a dict, which cannot be stored"),
        (lambda items: np.array([None, None]), r"returned an array of object"),
    ],
)  # fmt: skip
def test_a_result_that_cannot_be_stored_is_refused(model: Any, give: Any, says: str) -> None:
    with pytest.raises(ContractError, match=r"^01-a\.b: model 'm' \(judge\): .*" + says):
        model(Judge(give)).use(Rewards).reward(["a", "b"])
    # The same values are a whole result, or none that is stored.
    if "Other" not in says and "nan" not in says and "dict" not in says and "object" not in says:
        model(Judge(give)).use(Compares).compare(["a", "b"])
    assert len(model(Judge(give)).use(Draws).draw(["a", "b"])) == 2


def test_rows_of_different_shapes_are_a_list(model: Any) -> None:
    def give(items: Sequence[str]) -> Any:
        return np.ones((len(items), len(items[0])))

    model(Judge(give)).use(Entails).entail(["a"])
    with pytest.raises(ContractError, match=r"rows of the shapes \(1,\), \(2,\), and one array"):
        model(Judge(give)).use(Entails).entail(["a", "bb"])
    listed = model(Judge(lambda items: list(give(items)))).use(Rewards)
    listed.reward(["a"])
    assert [each.shape for each in listed.reward(["a", "bb"])] == [(1,), (2,)]


def test_arguments_that_cannot_be_looked_up_are_refused(model: Any) -> None:
    asked = model(Judge()).use(Rewards)
    with pytest.raises(ContractError, match=r"Rewards\.reward is called with a Other"):
        asked.reward([Other()])
    with pytest.raises(
        ContractError, match=r"takes a list first, .* and not str; write @capability"
    ):
        asked.reward("text")
    with pytest.raises(TypeError, match="unexpected keyword"):
        asked.reward(["a"], least=1)
    assert asked.reward([]) == []


class Costly(Judge):
    """Each item costs a dollar."""

    budget = Budget(100.0)

    @classmethod
    def price(cls, config: Any) -> Price:
        return Price(1.0, 0.0)

    def reward(self, texts: Sequence[str]) -> Any:
        self.budget.hold(len(texts))
        self.budget.settle(len(texts), len(texts))
        return super().reward(texts)


def test_what_calls_cost_is_in_the_journal(model: Any, tmp_path: Path) -> None:
    def give(items: Sequence[str]) -> list[float]:
        if "bad" in items:
            raise RuntimeError("paid for nothing")
        return [1.0] * len(items)

    budget = Costly.budget
    asked = model(Costly(give), budget=budget).use(Rewards)
    asked.reward(["a", "b", "c"])
    assert paid_in(tmp_path / "journal.db") == pytest.approx(3)
    with pytest.raises(RuntimeError):
        asked.reward(["bad", "a"])
    assert paid_in(tmp_path / "journal.db") == pytest.approx(4)
    assert budget.spent == 4


def test_a_result_depends_on_the_code_of_a_local_model_alone(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, paid = Judge(), Costly()
    for code in ("1", "2"):
        monkeypatch.setattr("nfilter.models.proxy.backend_code", lambda _, code=code: code)
        model(local, fingerprint="local").use(Rewards).reward(["a"])
        model(paid, fingerprint="paid", budget=paid.budget).use(Rewards).reward(["a"])
    assert (len(local.asked), len(paid.asked)) == (2, 1)


def test_another_seed_takes_what_an_earlier_one_asked(model: Any, tmp_path: Path) -> None:
    judge = Judge()
    journal = Journal(tmp_path / "first.db")
    JournaledModel("m", judge, "f", journal, "01-a.b").use(Rewards).reward(["a", "b"])
    journal.close()
    other = model(judge, run="second", lenders=[tmp_path / "first.db"])
    assert other.use(Rewards).reward(["b", "c"]) == [1.0, 1.0]
    assert judge.asked == [["a", "b"], ["c"]]
    assert model(judge, run="second").use(Rewards).reward(["b"]) == [1.0]


def test_a_damaged_result_is_asked_again(model: Any, tmp_path: Path) -> None:
    model(Judge()).use(Rewards).reward(["a", "b"])
    with closing(sqlite3.connect(tmp_path / "journal.db")) as connection, connection:
        (key,) = connection.execute("SELECT min(key) FROM results").fetchone()
        connection.execute("UPDATE results SET result = '{\"value\": 7.0}' WHERE key = ?", (key,))
    connection.close()
    said: list[str] = []
    Journal(tmp_path / "journal.db", complain=said.append).close()
    assert "1 of results" in said[0]
    judge = Judge()
    assert model(judge).use(Rewards).reward(["a", "b"]) == [1.0, 1.0]
    assert [len(part) for part in judge.asked] == [1]


def test_with_an_adapter_results_are_others(model: Any) -> None:
    class Adapted(Judge):
        def generate(self, requests: Any) -> Any: ...

        @contextmanager
        def adapted(self, ref: ModelRef) -> Iterator[Judge]:
            yield Judge(lambda items: [-1.0 for _ in items])

    base = model(Adapted())
    assert base.use(Rewards).reward(["a"]) == [1.0]
    with base.adapted(ModelRef("x", "adapter", "b", "d")) as adapted:
        assert adapted.use(Rewards).reward(["a"]) == [-1.0]
    assert base.use(Rewards).reward(["a"]) == [1.0]


@pytest.mark.types("add def «»(self, ...) to the class, or leave «» out of its abilities")
def test_a_backend_without_a_method_that_it_declares_is_named(model: Any) -> None:
    class Forgetful(Judge):
        reward = property()  # type: ignore[assignment]

    class Mended(Forgetful):
        def reward(self, texts: Sequence[str]) -> list[float]:  # type: ignore[override]
            return [1.0 for _ in texts]

    declared = frozenset({Rewards})
    with pytest.raises(
        ContractError,
        match=r"has Rewards, and the backend has no method 'reward'; add def reward\(",
    ):
        model(Forgetful(), capabilities=declared).use(Rewards)
    assert model(Mended(), capabilities=declared).use(Rewards).reward(["a"]) == [1.0]
    with pytest.raises(ModelError, match=r"does not have the capability Rewards"):
        model(Forgetful(), capabilities=frozenset({Entails})).use(Rewards)


@pytest.mark.types("own capabilities; write ctx.model(NAME).«»(...)")
def test_a_capability_is_asked_for_where_it_is(model: Any) -> None:
    class Embedder(Judge):
        def embed(self, texts: Sequence[str]) -> Any:
            return np.ones((len(texts), 2), dtype=np.float32)

    for asked in (model(Embedder()), FakeContext(models={"m": Embedder()}).model("m")):
        with pytest.raises(
            ContractError,
            match=r"Embeds is one of nfilter's own .*; write ctx\.model\(NAME\)\.embed",
        ):
            asked.use(Embeds)
        assert asked.embed(["a"]).shape == (1, 2)
    with pytest.raises(ModelError, match=r"capability Rewards \(it has: Embeds\)"):
        model(Embedder(), capabilities=frozenset({Embeds})).use(Rewards)


def declared(cls: type) -> type:
    return capability()(cls)


class Unmarked(Protocol):
    def rank(self, texts: Sequence[str]) -> list[int]: ...


@pytest.mark.types(
    "is not a capability; write @nfilter.capability()", "is not a protocol; write class"
)
def test_only_a_marked_protocol_is_a_capability(model: Any) -> None:
    uses: list[Callable[[type], object]] = [
        Needs,
        lambda cls: Abilities(frozenset({cls})),
        model(Judge()).use,
    ]
    for use in uses:
        with pytest.raises(
            TypeError, match=r"Unmarked is not a capability; write @nfilter\.capability\(\)"
        ):
            use(Unmarked)
    marked = declared(Unmarked)
    assert Needs(marked).capability is Unmarked
    # The mark is no member: isinstance asks for the method alone.
    from typing import runtime_checkable

    assert isinstance(type("Ranks", (), {"rank": lambda *_: []})(), runtime_checkable(marked))

    class Plain:
        def rank(self) -> None: ...

    with pytest.raises(
        TypeError, match=r"Plain is not a protocol; write class Plain\(typing\.Protocol\)"
    ):
        declared(Plain)
    declared(type("Plain", (Protocol,), {"rank": Plain.rank}))


def test_a_capability_has_methods_with_names_of_their_own() -> None:
    class Empty(Protocol):
        """No method."""

    class Taken(Protocol):
        def score(self, texts: Sequence[str]) -> list[float]: ...

    with pytest.raises(TypeError, match="Empty has no method; write the methods"):
        declared(Empty)
    with pytest.raises(
        TypeError, match="Taken: nfilter calls score of a backend for another purpose"
    ):
        declared(Taken)
    assert Scores in Abilities(frozenset({Scores})).capabilities


def test_the_conformance_check_looks_at_signatures() -> None:
    class Wrong(Judge):
        Config = StageConfig

        def __init__(self, config: Any, site: Any) -> None: ...

        @classmethod
        def abilities(cls, config: Any) -> Abilities:
            return Abilities(frozenset({Compares}))

        @classmethod
        def problems(cls, config: Any, site: Any) -> Sequence[str]:
            return ()

        def fingerprint(self) -> str:
            return "f"

        def close(self) -> None: ...

        def compare(self, texts: Sequence[str]) -> Mapping[str, float]:  # type: ignore[override]
            return {}

    says = r"it has compare\(.*, and nfilter calls def compare\(self, texts, \*, scale\)"
    with pytest.raises(AssertionError, match=says):
        check_backend(Wrong, StageConfig())
    Wrong.compare = Judge.compare  # type: ignore[method-assign]
    check_backend(Wrong, StageConfig())
