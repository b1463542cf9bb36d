"""Batches of a faulty server: each fault ends in a failure or an error that names it, and no call is paid twice."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nfilter import (
    Budget,
    Completion,
    Interrupt,
    Message,
    ModelError,
    Request,
    Sampling,
    Site,
    StoreError,
)
from nfilter_litellm import backend as backends
from nfilter_litellm import batch_api, batch_lines, http
from nfilter_litellm.backend import LiteLLMBackend
from nfilter_litellm.batch_api import BatchApi
from nfilter_litellm.batch_ledger import Ledger, Pending
from nfilter_litellm.batches import BatchSettings
from nfilter_litellm.config import LiteLLMConfig
from nfilter_litellm.protocol import read
from nfilter_litellm.retry import Retry
from tests.model_server.batches import BatchScript
from tests.model_server.faults import Script
from tests.model_server.server import ModelServer
from tests.plugins.nfilter_litellm.batch_calls import (
    NEVER,
    PRICE,
    asked,
    expected,
    sizes,
    texts,
    when,
)

NOTHING = {"output_file_id": None, "error_file_id": None}
MOST = 0.154  # dollars for a prompt of 10 + 64 tokens at most and an answer of 8
PAID = 0.042

Build = Callable[..., LiteLLMBackend]


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Build]:
    """Return a factory of backends that share one run directory."""
    made: list[LiteLLMBackend] = []
    settings = BatchSettings(first_delay=0.001, max_delay=0.01)
    monkeypatch.setattr(backends, "BatchSettings", lambda: settings)
    monkeypatch.setattr(backends, "Retry", lambda attempts: Retry(attempts, patience=0.05, base=0.002))  # fmt: skip

    def new(
        server: ModelServer, budget: Budget | None = None, interrupt: Interrupt | None = None, **settings: Any
    ) -> LiteLLMBackend:  # fmt: skip
        site = Site(
            tmp_path,
            budget=budget,
            interrupt=interrupt or Interrupt(),
            state_dir=tmp_path / "state",
        )
        settings = {"model": "test", "api_base": server.url, "batch": True, **settings}
        made.append(LiteLLMBackend(LiteLLMConfig.model_validate(settings), site))
        return made[-1]

    yield new
    for one in made:
        one.close()


def records(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "state" / "batches").glob("*.json"))


def interrupt_after_submission(build: Build, server: ModelServer, n: int) -> None:
    """Run and stop while the batch is on the server, which completes it afterwards."""
    interrupt = Interrupt()
    model = build(server, interrupt=interrupt)
    when(lambda: server.batches.looked > 0, interrupt._requested.set)
    assert list(filter(None, model.stream(asked(n)))) == []
    model.close()
    server.batches.script = BatchScript()


def lose_batch_id(build: Build, server: ModelServer, n: int) -> None:
    """Run until the reply with the batch's id is lost."""
    server.batches.script = BatchScript(broken={"create": 503})
    with pytest.raises(ModelError, match="a batch cannot be created: 503"):
        build(server).generate(asked(n))
    assert sizes(server) == [n]


# --- missing results ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "broken", [{"look": NOTHING}, {"content": "html"}, {"content": "foreign"}], ids=str
)
def test_a_completed_batch_without_any_line_is_not_repeated(
    build: Build, tmp_path: Path, broken: dict[str, Any]
) -> None:
    with ModelServer(batches=BatchScript(broken=broken)) as server:
        budget = Budget(100.0)
        model = build(server, budget, price=PRICE)
        with pytest.raises(ModelError, match=r"no line for any of its 9 calls.*the same command reads the results again") as error:  # fmt: skip
            model.generate(asked(9))
        model.close()
        (record,) = records(tmp_path)
        assert f"its record is {record}: remove that file" in str(error.value)
        assert budget.spent == pytest.approx(9 * MOST)
        server.batches.script = BatchScript()
        assert texts(build(server).generate(asked(9))) == expected(9)
        assert sizes(server) == [9]


def test_a_few_calls_without_a_line_are_retried_and_charged(build: Build) -> None:
    with ModelServer(batches=BatchScript(broken={"look": NOTHING})) as server:
        budget = Budget(100.0)
        with pytest.raises(ModelError, match="has no line for this call"):
            build(server, budget, attempts=3, price=PRICE).generate(asked(4))
        assert sizes(server) == [4, 4, 4]
        assert budget.spent == pytest.approx(12 * MOST)


def test_missing_lines_are_charged_with_their_cost_bound(build: Build) -> None:
    with ModelServer(batches=BatchScript(lost=0.3)) as server:
        budget = Budget(100.0)
        done = build(server, budget, attempts=12, price=PRICE).generate(asked(60))
        assert texts(done) == expected(60)
        missing = 0.0
        for batch in server.batches.made[1:]:
            for line in server.batches.files[batch["input_file_id"]].splitlines():
                words = json.loads(line)["body"]["messages"][0]["content"]
                missing += (len(words) + 64) * 0.001 + 0.08
        assert missing > 10 * MOST
        assert budget.spent == pytest.approx(60 * PAID + missing)
        assert sum(one.usd or 0.0 for one in done) == pytest.approx(60 * PAID + missing)


def test_an_unforeseen_exception_fails_one_call(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:

    def odd(body: Any, **how: Any) -> Completion:
        done = read(body, **how)
        if done.text == expected(3)[1]:
            raise RuntimeError("unforeseen")
        return done

    monkeypatch.setattr(batch_lines, "read", odd)
    with ModelServer(batches=BatchScript()) as server:
        done = build(server, attempts=1, price=PRICE).generate(asked(3))
    assert [one.failure is None for one in done] == [True, False, True]
    assert done[1].failure is not None
    assert done[1].failure.kind == "parse"
    assert "RuntimeError" in done[1].failure.detail
    assert [one.usd for one in done] == [pytest.approx(each) for each in (PAID, MOST, PAID)]


# --- records ---------------------------------------------------------------------------------------


def test_a_record_remains_until_the_last_answers_are_stored(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ModelServer(batches=BatchScript()) as server:
        model = build(server)
        came = [each for each in model._engine.stream(asked(3)) if each is not None]
        monkeypatch.setattr(model._engine, "stream", lambda _: (each for each in came))
        stream = model.stream(asked(3))
        assert [next(stream) for _ in range(3)] == came
        # The caller stores the answers here, which may fail: a full disk, a kill.
        assert next(stream) is None
        model.close()
        assert len(records(tmp_path)) == 1
        assert list(stream) == []
        model.close()
        assert records(tmp_path) == []


def test_a_record_remains_while_calls_are_unread(build: Build, tmp_path: Path) -> None:
    with ModelServer(batches=NEVER) as server:
        interrupt_after_submission(build, server, 30)
        (record,) = records(tmp_path)
        made = json.loads(record.read_text())["made"]
        for start in (0, 10):
            model = build(server)
            assert texts(model.generate(asked(30)[start : start + 10])) == expected(30)[start : start + 10]  # fmt: skip
            model.close()
            assert records(tmp_path) == [record]
            assert json.loads(record.read_text())["made"] == made
        # Calls that an earlier run read are repeated, as they are not in this journal.
        assert texts(build(server).generate(asked(5))) == expected(5)
        assert sizes(server) == [30, 5]
        model = build(server)
        assert texts(model.generate(asked(30)[20:])) == expected(30)[20:]
        model.close()
        assert record not in records(tmp_path)
        assert sizes(server) == [30, 5]


def test_a_record_is_removed_once_all_its_calls_are_repeated_or_read(tmp_path: Path) -> None:
    first = Ledger(tmp_path)
    for name, turn, ids in (("a", 1, "xy"), ("c", 1, "xw"), ("b", 2, "xyz")):
        first.record(Pending(name, f"file-{name}", None, turn, tuple(ids)))
    second = Ledger(tmp_path)
    found = second.resume(["w", "x", "y", "v"])
    assert [(each.name, each.ids) for each in found] == [("c", ("w",)), ("b", ("x", "y"))]
    assert sorted(path.stem for path in tmp_path.glob("*.json")) == ["b", "c"]
    for each in found:
        second.mark_read(each)
    second.close()
    # Call z of b is unread; x in c is superseded by b.
    assert [path.stem for path in tmp_path.glob("*.json")] == ["b"]
    (left,) = Ledger(tmp_path).resume("xyz")
    assert left.ids == ("z",)
    assert Ledger(tmp_path).all_ids(left) == {"z"}


@pytest.mark.parametrize("closed", [True, False])
def test_a_call_repeated_after_it_was_read_belongs_to_the_new_batch(
    tmp_path: Path, closed: bool
) -> None:
    first = Ledger(tmp_path)
    first.record(Pending("old", "file-1", "batch_1", 2, ("x", "y")))
    second = Ledger(tmp_path)
    second.mark_read(second.resume("x")[0])
    if closed:
        second.close()
    second.record(Pending("new", "file-2", "batch_2", 1, ("x",)))
    found = Ledger(tmp_path).resume("yx")
    assert [(each.name, each.ids) for each in found] == [("old", ("y",)), ("new", ("x",))]


def test_a_call_read_last_is_not_read_from_an_older_batch(tmp_path: Path) -> None:
    first = Ledger(tmp_path)
    first.record(Pending("a", "file-1", "batch_1", 1, ("x", "y")))
    first.record(Pending("b", "file-2", "batch_2", 2, ("x", "z")))
    second = Ledger(tmp_path)
    second.mark_read(second.resume("x")[0])
    second.close()
    assert len(list(tmp_path.glob("*.json"))) == 2
    assert [(each.name, each.ids) for each in Ledger(tmp_path).resume("xyz")] == [("a", ("y",)), ("b", ("z",))]  # fmt: skip


def test_records_are_removed_when_servers_no_longer_keep_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Ledger(tmp_path).record(Pending("a", "file-1", "batch_1", 1, ("x",)))
    now = time.time()
    for days, left in ((29, 1), (31, 0)):
        monkeypatch.setattr(time, "time", lambda days=days: now + days * 86400)
        assert len(Ledger(tmp_path).resume("x")) == left
        assert len(list(tmp_path.glob("*.json"))) == left


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"file": "f", "batch": null, "turn": 1, "ids": ["a"]}', '{"version": 1, "file": 5}']
)  # fmt: skip
def test_an_unreadable_record_is_named(build: Build, tmp_path: Path, text: str) -> None:
    folder = tmp_path / "state" / "batches"
    folder.mkdir(parents=True)
    (folder / "x.json").write_text(text)
    with ModelServer(batches=BatchScript()) as server:
        with pytest.raises(StoreError, match=r"x\.json is not a batch record.*remove it to repeat its calls"):  # fmt: skip
            build(server).generate(asked(2))
        (folder / "x.json").unlink()
        assert texts(build(server).generate(asked(2))) == expected(2)


def test_the_record_of_a_failed_batch_remains_until_its_lines_are_stored(
    build: Build, tmp_path: Path
) -> None:
    with ModelServer(batches=BatchScript(ends=["failed"])) as server:
        model = build(server, attempts=1)
        with pytest.raises(ModelError, match="batch_1 failed: token_limit_exceeded"):
            model.generate(asked(5))
        model.close()
        assert len(records(tmp_path)) == 1
        model = build(server)
        assert texts(model.generate(asked(5))) == expected(5)
        model.close()
        assert sizes(server) == [5, 5]
        assert records(tmp_path) == []


def test_ctrl_c_during_the_upload_creates_no_batch(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload, interrupt, budget = BatchApi.upload, Interrupt(), Budget(100.0)

    async def long(api: BatchApi, lines: bytes) -> str:
        name = await upload(api, lines)
        interrupt._requested.set()
        return name

    with ModelServer(batches=BatchScript()) as server:
        with monkeypatch.context() as patch:
            patch.setattr(BatchApi, "upload", long)
            model = build(server, budget, interrupt, price=PRICE)
            assert list(filter(None, model.stream(asked(5)))) == []
            model.close()
        assert server.batches.made == []
        assert (budget.spent, budget.held) == (0.0, 0.0)
        assert len(records(tmp_path)) == 1
        assert texts(build(server).generate(asked(5))) == expected(5)
        assert sizes(server) == [5]
        assert server.batches.made[0]["input_file_id"] == "file-1"


# --- endless batches and results -----------------------------------------------------------------------------------------


def test_a_batch_that_never_ends_is_abandoned_after_its_window(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert BatchSettings().window == 26 * 3600
    with ModelServer(batches=NEVER) as server:
        with monkeypatch.context() as patch:
            patch.setattr(
                backends,
                "BatchSettings",
                lambda: BatchSettings(first_delay=0.001, max_delay=0.01, window=0.01),
            )
            with pytest.raises(ModelError, match=r"batch_1 has not ended.*'in_progress'\. The same command checks it again"):  # fmt: skip
                build(server).generate(asked(3))
        server.batches.script = BatchScript()
        assert texts(build(server).generate(asked(3))) == expected(3)
        assert sizes(server) == [3]


@pytest.mark.parametrize("place", ["look", "upload"])
def test_a_server_that_asks_to_wait_a_day_is_an_error(build: Build, place: str) -> None:
    script = Script(retry_after=86400.0)
    with (
        ModelServer(script, batches=BatchScript(broken={place: 503})) as server,
        pytest.raises(ModelError, match=r"503.*the server asks to wait 86400 s"),
    ):
        build(server).generate(asked(3))


def test_endless_results_are_read_until_all_calls_have_a_line(build: Build) -> None:
    with ModelServer(batches=BatchScript(broken={"content": "endless"})) as server:
        assert texts(build(server).generate(asked(20))) == expected(20)
    script = BatchScript(lost=0.3, broken={"content": "endless"})
    with ModelServer(batches=script) as server:
        with pytest.raises(ModelError, match="the file has more than 100000 lines"):
            build(server).generate(asked(20))
        assert sizes(server) == [20]


def test_ctrl_c_stops_reading_results(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_api, "MAX_LINES", 10**12)
    script = BatchScript(lost=0.3, broken={"content": "endless"})
    with ModelServer(batches=script) as server:
        interrupt = Interrupt()
        came = {}
        for one in build(server, interrupt=interrupt).stream(asked(20)):
            if one is not None:
                came[one[0]] = one[1]
                interrupt._requested.set()  # in the middle of the results, independent of timing
        assert 0 < len(came) < 20
        server.batches.script = BatchScript()
        assert texts(build(server).generate(asked(20))) == expected(20)


def test_a_slow_file_times_out(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    assert http._FILE_TIMEOUT == 3600.0
    monkeypatch.setattr(http, "_FILE_TIMEOUT", 0.1)
    with (
        ModelServer(batches=BatchScript(broken={"content": "drip"})) as server,
        pytest.raises(ModelError, match=r"the results of batch batch_1 cannot be read.*no reply within"),
    ):  # fmt: skip
        build(server).generate(asked(3))


def test_result_lines_may_be_long(build: Build) -> None:
    long = "word " * 60_000
    requests = [
        Request((Message("user", f"question {n}"),), Sampling(max_tokens=10**6)) for n in range(6)
    ]
    script = Script(answer=lambda messages: f"{long}{messages[0]['content']}")
    with ModelServer(script, batches=BatchScript(shuffled=True)) as server:
        done = build(server).generate(requests)
    assert texts(done) == [f"{long}question {n}" for n in range(6)]


# --- invalid replies -----------------------------------------------------------------------------

INVALID = {
    "an unknown status": ({"status": "On_Hold"}, "the status of batch batch_1 is 'on_hold'"),
    "another batch": ({"id": "batch_9"}, "it describes batch batch_9 in place of batch_1"),
    "errors of another type": ({**NOTHING, "status": "failed", "errors": {"data": {"code": "odd"}}}, "batch_1 failed.*odd"),
    "errors as a text": ({**NOTHING, "status": "failed", "errors": "too many"}, "batch_1 failed.*too many"),
    "no error at all": ({**NOTHING, "status": "failed", "errors": {"data": 5}}, "batch_1 failed"),
    "a path": ({"output_file_id": "/etc"}, "its output_file_id is '/etc'"),
    "a host": ({"output_file_id": "//evil"}, "its output_file_id is '//evil'"),
    "another folder": ({"error_file_id": "../batches/x"}, "its error_file_id is '../batches/x'"),
    "a way around": ({"output_file_id": "a/../../b"}, "its output_file_id is"),
    "a number": ({"output_file_id": 5}, "it has no output_file_id"),
}  # fmt: skip


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_status_reply_is_an_error(build: Build, tmp_path: Path, name: str) -> None:
    fields, message = INVALID[name]
    with ModelServer(batches=BatchScript(broken={"look": fields})) as server:
        model = build(server)
        with pytest.raises(ModelError, match=message):
            model.generate(asked(3))
        model.close()
        assert len(records(tmp_path)) == 1
        assert server.paths == {"/v1/files", "/v1/batches", "/v1/batches/batch_1"}


@pytest.mark.parametrize("bad", ["../batches", "..", ".", "a//b", "/x", "a/"])
@pytest.mark.parametrize("place", ["upload", "create"])
def test_no_id_from_a_server_leads_to_another_address(build: Build, place: str, bad: str) -> None:
    broken: dict[str, Any] = {place: {"id": bad}, "list": {"data": None}}
    with ModelServer(batches=BatchScript(broken=broken)) as server:
        with pytest.raises(ModelError, match="its id is"):
            build(server, attempts=1).generate(asked(3))
        assert server.paths <= {"/v1/files", "/v1/batches"}


@pytest.mark.parametrize("listed", [{"data": 5}, {"data": {"id": "x"}}, ["x"]], ids=str)
def test_an_invalid_list_is_an_error(build: Build, listed: Any) -> None:
    with ModelServer(batches=BatchScript()) as server:
        lose_batch_id(build, server, 3)
        server.batches.script = BatchScript(broken={"list": listed})
        with pytest.raises(ModelError, match=r"a batch cannot be created.*no list of batches"):
            build(server).generate(asked(3))
        server.batches.script = BatchScript()
        assert texts(build(server).generate(asked(3))) == expected(3)
        assert sizes(server) == [3]


@pytest.mark.parametrize(
    ("status", "known"), [(404, False), (405, False), (501, False), (400, True), (403, True), (500, True)]
)  # fmt: skip
def test_only_some_statuses_mean_that_the_server_has_no_list(
    build: Build, status: int, known: bool
) -> None:
    with ModelServer(batches=BatchScript()) as server:
        lose_batch_id(build, server, 3)
        server.batches.script = BatchScript(broken={"list": status})
        if known:
            with pytest.raises(ModelError, match=f"a batch cannot be created: {status}"):
                build(server).generate(asked(3))
        else:
            assert texts(build(server).generate(asked(3))) == expected(3)
        assert sizes(server) == ([3] if known else [3, 3])


@pytest.mark.parametrize("what", ["batch_1", "line-1", '"turn": 1'])
def test_an_edited_record_is_refused(tmp_path: Path, what: str) -> None:
    Ledger(tmp_path).record(Pending("a", "file-1", "batch_1", 1, ("line-1", "line-2")))
    (file,) = tmp_path.glob("*.json")
    text = file.read_text()
    assert what in text
    file.write_text(text.replace(what, what.replace("1", "7"), 1))
    with pytest.raises(
        StoreError, match=r"a\.json is not a batch record.*remove it to repeat its calls"
    ):
        Ledger(tmp_path).resume(["line-1"])


def test_a_record_of_an_earlier_version_is_resumed(tmp_path: Path) -> None:
    record = {"version": 1, "made": time.time(), "file": "f", "batch": "batch_1", "turn": 1, "ids": ["x"], "read": []}  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(record))
    assert Ledger(tmp_path).resume(["x"]) == [Pending("a", "f", "batch_1", 1, ("x",))]
