"""Calls and their costs: what a key depends on, what is committed together, what is never asked again."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from nfilter import (
    Completion,
    Failure,
    Message,
    Request,
    Sampling,
    StoreError,
    ToolCall,
)
from nfilter.store.journal import Journal, Use, call_key, paid_in

ASK = Request((Message("user", "1+1?"),), Sampling(temperature=0.7), sample_id="a")
GREEDY = dataclasses.replace(ASK, sampling=Sampling())


@pytest.fixture
def journal(tmp_path: Path) -> Any:
    made = Journal(tmp_path / "journal.db")
    yield made
    made.close()


def ask(text: str, sample_id: str = "a", **sampling: Any) -> Request:
    return Request((Message("user", text),), Sampling(**sampling), sample_id=sample_id)


@pytest.mark.parametrize(
    "change",
    [
        {"messages": (Message("user", "1+2?"),)},
        {"messages": (Message("system", "1+1?"),)},
        {"messages": (Message("user", "1+"), Message("user", "1?"))},
        {"logprobs": True},
        {"draw": 1},
        {"tools": ({"type": "function"},)},
        {"response_schema": {"type": "object"}},
        {"extra": {"reasoning_effort": "low"}},
        *({"sampling": dataclasses.replace(ASK.sampling, **{name: value})} for name, value in
          {"max_tokens": 9, "temperature": 0.8, "top_p": 0.9, "seed": 1, "stop": ("x",)}.items()),
    ],
    ids=str,
)  # fmt: skip
def test_what_can_change_an_answer_changes_its_key(change: dict[str, Any]) -> None:
    assert call_key("f", dataclasses.replace(ASK, **change)) != call_key("f", ASK)


def test_each_choice_of_tools_has_a_key_of_its_own() -> None:
    tools = ({"type": "function"},)
    choices = ("auto", "none", "required", "calculator")
    asked = [dataclasses.replace(ASK, tools=tools, tool_choice=each) for each in choices]
    same = dataclasses.replace(ASK, extra={"tools": tools})
    assert len({call_key("f", each) for each in (*asked, same)}) == 5


def test_the_model_changes_the_key_and_the_sample_does_not() -> None:
    assert call_key("g", ASK) != call_key("f", ASK)
    assert call_key("f", dataclasses.replace(ASK, sample_id="b")) == call_key("f", ASK)


def test_a_greedy_answer_depends_on_neither_seed_nor_draw() -> None:
    for change in ({"sampling": Sampling(seed=5)}, {"draw": 3}):
        assert call_key("f", dataclasses.replace(GREEDY, **change)) == call_key("f", GREEDY)
    assert call_key("f", GREEDY) != call_key("f", ASK)


def test_an_answer_comes_back_as_it_went_in_and_says_that_it_is_cached(journal: Journal) -> None:
    done = Completion("text é", "length", (-0.5, -1e-9), 3, 2)
    failed = Completion("", "failed", failure=Failure("refused", "will not"))
    calling = Completion("", tool_calls=(ToolCall("sql", '{"q": 1}', "c1"), ToolCall("sql", "{}")))
    journal.commit([("k", done), ("f", failed), ("t", calling)], [])
    found = journal.find(["k", "f", "t", "missing"])
    assert found == {
        "t": dataclasses.replace(calling, cached=True),
        "k": dataclasses.replace(done, cached=True),
        "f": dataclasses.replace(failed, cached=True),
    }


def test_many_keys_are_found_at_once(journal: Journal) -> None:
    journal.commit([(str(index), Completion(str(index))) for index in range(1203)], [])
    assert len(journal.find([str(index) for index in range(1300)])) == 1203


def test_the_first_committed_answer_stays(journal: Journal) -> None:
    journal.commit([("k", Completion("first"))], [])
    journal.commit([("k", Completion("second"))], [])
    assert journal.find(["k"])["k"].text == "first"


def test_answers_and_their_costs_are_committed_together_or_not_at_all(
    journal: Journal, tmp_path: Path
) -> None:
    broken: Any = Use("s", "a", "k", None)  # type: ignore[arg-type] # model is NOT NULL
    with pytest.raises(sqlite3.IntegrityError):
        journal.commit([("k", Completion("x", completion_tokens=7))], [broken])
    assert journal.find(["k"]) == {}
    assert journal.usage() == {}
    journal.commit(
        [("k", Completion("x", prompt_tokens=3, completion_tokens=7))], [Use("s", "a", "k", "m")]
    )
    other = sqlite3.connect(tmp_path / "journal.db")
    assert other.execute("SELECT count(*) FROM calls").fetchone() == (1,)
    other.close()
    assert journal.usage() == {"s": {"calls": 1, "prompt_tokens": 3, "completion_tokens": 7}}


def test_a_call_is_counted_for_every_sample_and_stage_that_used_it(journal: Journal) -> None:
    journal.commit(
        [
            ("k", Completion("x", prompt_tokens=3, completion_tokens=7)),
            ("l", Completion("y", prompt_tokens=1)),
        ],
        [],
    )
    uses = [
        Use("s", "a", "k", "m"),
        Use("s", "b", "k", "m"),
        Use("s", "a", "l", "m"),
        Use("t", "a", "k", "m"),
    ]
    for _ in range(2):  # a resumed stage says the same again
        journal.commit([], uses)
    assert journal.usage() == {
        "s": {"calls": 3, "prompt_tokens": 7, "completion_tokens": 14},
        "t": {"calls": 1, "prompt_tokens": 3, "completion_tokens": 7},
    }
    assert journal.stages() == ["s", "t"]
    journal.forget(["s"])
    assert list(journal.usage()) == ["t"]
    assert set(journal.find(["k", "l"])) == {"k", "l"}
    assert [(call["stage"], call["text"]) for call in journal.calls_for("a")] == [("t", "x")]


def test_a_byte_that_is_damaged_anywhere_is_never_believed(tmp_path: Path) -> None:
    whole = tmp_path / "whole.db"
    made = Journal(whole)
    answers = {f"{n:064x}": Completion(f"The answer is {n}", usd=0.25) for n in range(40)}
    uses = [Use("01-a", f"row-{n}", key, "m") for n, key in enumerate(answers)]
    made.commit(list(answers.items()), uses, [("01-a", "m", 0.5)])
    expected = made.find(list(answers)), made.usage(), made.usd()
    made.close()
    data = whole.read_bytes()
    path = tmp_path / "journal.db"
    ends: Counter[str] = Counter()
    rng = random.Random(0)
    for at in [*range(0, 100, 7), *(rng.randrange(len(data)) for _ in range(250))]:
        for beside in tmp_path.glob("journal.db*"):
            beside.unlink()
        path.write_bytes(data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :])
        said: list[str] = []
        try:
            journal = Journal(path, complain=said.append)
        except StoreError:
            ends["refused"] += 1
            continue
        found = journal.find(list(answers)), journal.usage(), journal.usd()
        journal.close()
        if said:
            ends["named"] += 1
            assert all(expected[0][key] == answer for key, answer in found[0].items())
            assert journal.may_lack_calls("01-a") or found[:2] == expected[:2]
            assert found[2] == pytest.approx(expected[2]) or "lost" in said[0] or len(found[0]) < 40
        else:
            ends["harmless"] += 1
            assert found == expected, at
    assert min(ends["refused"], ends["named"]) > 10


def test_what_another_run_paid_is_read_and_its_damage_left_for_it_to_see(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    made = Journal(path)
    made.commit([("k", Completion("The answer is 7", usd=0.25))], [Use("01-a", "r", "k", "m")])
    made.close()
    path.write_bytes(path.read_bytes().replace(b"answer is 7", b"answer is 8"))
    assert paid_in(path) == 0.25
    said: list[str] = []
    journal = Journal(path, complain=said.append)
    assert "1 of calls" in said[0]
    assert journal.may_lack_calls("01-a")
    assert not journal.may_lack_calls("02-b")
    assert journal.find(["k"]) == {}
    assert journal.usd() == 0.25
    journal.close()
    again = Journal(path, complain=said.append)
    assert len(said) == 1
    again.close()


def test_another_journal_of_the_run_is_taken_over_once(tmp_path: Path, journal: Any) -> None:
    other = Journal(tmp_path / "other.db", shared_memory=False)
    done = Completion("2", usd=0.5)
    other.commit(
        [("k1", done), ("k2", done)],
        [Use("01-a", "s", "k1", "m"), Use("02-b", "s", "k2", "m")],
        [("01-a", "m", 0.25)],
        [("k1", GREEDY), ("k2", GREEDY)],
    )
    other.record_outcomes("01-a", "m", {"k1": "too_long"})
    other.keep_results([("r", "[1]", 0.125)])
    journal.commit([("k1", dataclasses.replace(done, usd=2.0))], [Use("01-a", "s", "k1", "m")])
    journal.record_outcomes("01-a", "m", {"k0": "server"})
    for _ in range(2):
        journal.absorb(tmp_path / "other.db", "01-a")
        assert journal.usage().keys() == {"01-a"}
        assert set(journal.find(["k1", "k2"])) == {"k1"}
        assert journal.usd() == 2.0 + 0.25 + 0.125
        assert journal.outcomes("01-a")["m"] == {
            "calls": 2, "failed": 2, "kinds": {"server": 1, "too_long": 1},
        }  # fmt: skip
    # A call that failed there and succeeded later.
    other.record_outcomes("01-a", "m", {"k1": None})
    for stage in ("01-a", None):
        journal.absorb(tmp_path / "other.db", stage)
        assert journal.outcomes("01-a")["m"]["kinds"] == {"server": 1}
    assert journal.usage().keys() == {"01-a", "02-b"}
    assert journal.usd() == 2.0 + 0.25 + 0.125 + 0.5
    other.close()


def test_a_damaged_row_is_not_taken_over(tmp_path: Path, journal: Any) -> None:
    other = Journal(tmp_path / "other.db", shared_memory=False)
    other.commit([("k1", Completion("2")), ("k2", Completion("3"))], [])
    other.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as connection, connection:
        connection.execute("UPDATE calls SET answer = '{}' WHERE key = 'k1'")
    journal.absorb(tmp_path / "other.db")
    assert set(journal.find(["k1", "k2"])) == {"k2"}


def test_what_is_no_journal_is_not_taken_over(tmp_path: Path, journal: Any) -> None:
    (tmp_path / "other.db").write_bytes(b"no journal" * 100)
    with pytest.raises(StoreError, match="not a readable journal"):
        journal.absorb(tmp_path / "other.db")


def test_a_journal_that_lends_is_read_while_it_is_written(tmp_path: Path, journal: Any) -> None:
    journal.commit([("k1", Completion("2"))], [])
    journal.lend()
    before = (tmp_path / "journal.db").read_bytes()
    reader = Journal(tmp_path / "reader.db", [tmp_path / "journal.db"], shared_memory=False)
    for number in range(40):
        journal.commit([(f"n{number}", Completion("x" * 20_000))], [])
    assert (tmp_path / "journal.db").read_bytes() == before
    assert {key: done.text for key, done in reader.find(["k1", "n1"]).items()} == {"k1": "2"}
    journal.lend()
    assert set(reader.find(["k1", "n1"])) == {"k1", "n1"}
    assert reader.lent == 2
    reader.close()


def test_a_journal_without_shared_memory_is_one_file(tmp_path: Path) -> None:
    other = Journal(tmp_path / "other.db", shared_memory=False)
    other.commit([("k1", Completion("2"))], [])
    assert [path.name for path in tmp_path.iterdir()] == ["other.db"]
    other.close()


@pytest.mark.parametrize("write", ["record_outcomes", "forget", "commit"])
def test_every_write_to_a_full_disk_is_an_error_with_its_remedy(tmp_path: Path, write: str) -> None:
    journal = Journal(tmp_path / "journal.db")
    kinds = {f"{n:064}": "server" for n in range(3000)}
    uses = [Use("01-a", f"s{n}", f"{n:064}", "m") for n in range(3000)]
    journal.commit([], uses)
    journal._connection.execute("PRAGMA max_page_count=1")
    journal._connection.execute(
        "PRAGMA query_only=ON" if write == "forget" else "PRAGMA cache_size=10"
    )
    calls = {
        "record_outcomes": lambda: journal.record_outcomes("01-a", "m", kinds),  # type: ignore[arg-type]
        "forget": lambda: journal.forget(["01-a"]),
        "commit": lambda: journal.commit([], [Use("02-b", each.sample, each.key, "m") for each in uses]),
    }  # fmt: skip
    with pytest.raises(StoreError, match="run the same command to resume"):
        calls[write]()
    # Nothing is half written, and the connection is usable.
    journal._connection.execute("PRAGMA query_only=OFF")
    journal._connection.execute("PRAGMA max_page_count=100000")
    assert journal.stages() == ["01-a"]
    assert journal.outcomes()["m"]["failed"] == 0
    calls[write]()
    journal.close()
