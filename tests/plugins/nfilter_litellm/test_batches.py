"""Calls in batches: the same answers as single calls, each paid once, despite server faults and kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nfilter import (
    Budget,
    BudgetError,
    Completion,
    Interrupt,
    Message,
    ModelError,
    Request,
    Sampling,
    Site,
)
from nfilter_litellm import backend as backends
from nfilter_litellm.backend import LiteLLMBackend
from nfilter_litellm.batch_api import BatchApi
from nfilter_litellm.batches import BatchSettings
from nfilter_litellm.config import LiteLLMConfig
from nfilter_litellm.prices import price_of
from nfilter_litellm.retry import Retry
from tests.model_server.batches import BatchScript
from tests.model_server.faults import Script, answer
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

FAST = BatchSettings(first_delay=0.001, max_delay=0.01)


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., LiteLLMBackend]]:
    made: list[LiteLLMBackend] = []
    monkeypatch.setattr(backends, "BatchSettings", lambda: FAST)
    monkeypatch.setattr(backends, "Retry", lambda attempts: Retry(attempts, patience=1.0, base=0.002))  # fmt: skip

    def new(server: ModelServer, site: Site | None = None, **settings: Any) -> LiteLLMBackend:
        settings = {"model": "test", "api_base": server.url, "batch": True, **settings}
        made.append(LiteLLMBackend(LiteLLMConfig.model_validate(settings), site or Site(Path())))
        return made[-1]

    yield new
    for one in made:
        one.close()


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.7, "seed": 5}])
def test_answers_equal_those_of_single_calls(
    build: Callable[..., LiteLLMBackend], sampling: dict[str, Any]
) -> None:
    script = BatchScript(looks=3, shuffled=True)
    with ModelServer(Script(key="k" * 9), batches=script) as server:
        os.environ["BATCH_KEY"] = "k" * 9
        try:
            batched = build(server, api_key_env="BATCH_KEY")
            single = build(server, api_key_env="BATCH_KEY", batch=False)
        finally:
            del os.environ["BATCH_KEY"]
        questions = asked(50, logprobs=True, **sampling)
        done = batched.generate(questions)
        assert sizes(server) == [50]
        assert server.batches.looked == 3
        assert done == single.generate(questions)
        sent = [json.loads(line)["body"] for line in server.batches.files["file-1"].splitlines()]
        assert sorted(sent, key=str) == sorted(server.asked, key=str)
        assert batched.fingerprint() == single.fingerprint()


def test_files_are_split_at_the_maximum_size(
    build: Callable[..., LiteLLMBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ModelServer(batches=BatchScript()) as server:
        monkeypatch.setattr(
            backends, "BatchSettings", lambda: BatchSettings(max_lines=20, first_delay=0.001)
        )
        assert texts(build(server).generate(asked(50))) == expected(50)
        assert sorted(sizes(server)) == [10, 20, 20]
        size = len(server.batches.files["file-1"]) // 20
        monkeypatch.setattr(
            backends, "BatchSettings", lambda: BatchSettings(max_bytes=15 * size, first_delay=0.001)
        )
        build(server, revision="b").generate(asked(50))
        inputs = [server.batches.files[batch["input_file_id"]] for batch in server.batches.made[3:]]
        assert sum(sizes(server)[3:]) == 50
        assert [13 * size < len(body) <= 15 * size for body in sorted(inputs, key=len)[1:]] == [
            True
        ] * 3


def test_a_file_of_many_megabytes(build: Callable[..., LiteLLMBackend]) -> None:
    long = "word " * 100_000
    questions = [Request((Message("user", f"{n} {long}"),), sample_id=str(n)) for n in range(8)]
    with ModelServer(batches=BatchScript()) as server:
        done = build(server).generate(questions)
        assert len(server.batches.files["file-1"]) > 4_000_000
    assert texts(done) == [answer([{"role": "user", "content": f"{n} {long}"}]) for n in range(8)]


def test_equal_calls_share_a_line_but_draws_do_not(
    build: Callable[..., LiteLLMBackend],
) -> None:
    (one,) = asked(1)
    drawn = [Request(one.messages, Sampling(max_tokens=8, temperature=1.0), draw=n) for n in (0, 1)]
    with ModelServer(batches=BatchScript()) as server:
        # Without a seed the draws have equal bodies.
        model = build(server, body={"seed": None}, price=PRICE)
        done = model.generate([one, one, *drawn])
        assert texts(done) == expected(1) * 4
        assert sizes(server) == [3]
        assert [one.usd for one in done] == [pytest.approx(0.042), 0.0, pytest.approx(0.042), pytest.approx(0.042)]  # fmt: skip


ENDS = {
    "empty": "parse", "refusal": "refused", "filtered": "refused", "overflow": "too_long", "off_schema": "parse",
    "error": "server", "limited": "server",
}  # fmt: skip


@pytest.mark.parametrize("kind", ENDS)
def test_a_failed_line_equals_a_failed_single_call(
    build: Callable[..., LiteLLMBackend], kind: str
) -> None:
    with ModelServer(Script(faults={kind: 0.4}, seed=2), batches=BatchScript()) as server:
        done = build(server, attempts=2).generate(asked(60))
        often = [len(kinds) for kinds in server.plan.served.values()]
    failed = [one.failure for one in done if one.failure is not None]
    assert failed
    assert {fault.kind for fault in failed} == {ENDS[kind]}
    right = expected(60)
    assert all(one.failure or one.text == right[n] for n, one in enumerate(done))
    if kind in ("off_schema", "error", "limited"):
        assert max(often) == 2
        assert all("(attempt 2)" in fault.detail for fault in failed)
    else:
        assert max(often) == 1


def test_missing_lines_are_retried(build: Callable[..., LiteLLMBackend]) -> None:
    with ModelServer(batches=BatchScript(lost=0.3, shuffled=True)) as server:
        assert texts(build(server, attempts=12).generate(asked(100))) == expected(100)
        first_delay, *more = sizes(server)
        assert first_delay == 100
        assert more == sorted(more, reverse=True)
        assert 10 < more[0] < 50


def test_calls_of_an_expired_batch_are_retried_a_limited_number_of_times(
    build: Callable[..., LiteLLMBackend],
) -> None:
    with ModelServer(batches=BatchScript(ends=["expired", "expired"])) as server:
        assert texts(build(server).generate(asked(40))) == expected(40)
        assert sizes(server) == [40, 20, 10]
        assert all(len(kinds) == 1 for kinds in server.plan.served.values())
    with ModelServer(batches=BatchScript(ends=["expired"] * 9)) as server:
        done = build(server, attempts=2).generate(asked(40))
        assert sizes(server) == [40, 20]
        failed = [one.failure for one in done if one.failure]
        assert len(failed) == 10
        assert {fault.kind for fault in failed} == {"timeout"}
        assert "batch_expired" in failed[0].detail
    with (
        ModelServer(Script(faults={"unauthorized": 1.0}), batches=BatchScript()) as server,
        pytest.raises(ModelError, match="3 consecutive calls failed, the last with: 401"),
    ):
        build(server).generate(asked(10))


def test_a_failed_or_cancelled_batch_ends_the_run_with_the_reason(
    build: Callable[..., LiteLLMBackend], tmp_path: Path
) -> None:
    with ModelServer(batches=BatchScript(ends=["failed", "cancelled"])) as server:
        site = Site(tmp_path, state_dir=tmp_path / "state")
        with pytest.raises(ModelError, match="batch_1 failed: token_limit_exceeded: Enqueued"):
            build(server, site).generate(asked(10))
        indices: list[int] = []
        stream = build(server, site).stream(asked(10))
        with pytest.raises(ModelError, match="batch_2 was cancelled on the server"):
            indices.extend(index for index, _ in filter(None, stream))
        # The next run keeps the answers and does not end the same way.
        assert texts(build(server, site).generate(asked(10))) == expected(10)
        assert sizes(server) == [10, 10, 5]


@pytest.mark.types("supports only single calls: remove batch: true")
def test_a_server_without_batches_is_reported_with_the_remedy(
    build: Callable[..., LiteLLMBackend],
) -> None:
    with ModelServer() as server, pytest.raises(ModelError, match=r"404.*remove batch: true"):
        build(server).generate(asked(3))
    with ModelServer() as server:
        assert all(done.failure is None for done in build(server, batch=False).generate(asked(3)))


@pytest.mark.types("batch: true needs a server with")
def test_check_refuses_batches_through_litellm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "x")
    config = LiteLLMConfig(model="anthropic/claude-3-5-haiku-latest", batch=True)
    (problem,) = LiteLLMBackend.problems(config, Site(Path()))
    assert "{model: NAME, api_base: https://HOST/v1, batch: true}" in problem
    with pytest.raises(ModelError, match="or remove batch: true"):
        LiteLLMBackend(config, Site(Path()))
    single = LiteLLMConfig(model="anthropic/claude-3-5-haiku-latest")
    assert not list(LiteLLMBackend.problems(single, Site(Path())))
    config = LiteLLMConfig(model="x", api_base="http://localhost:1/v1", batch=True)
    assert not list(LiteLLMBackend.problems(config, Site(Path())))
    (fact,) = LiteLLMBackend.facts(config, Site(Path()))
    assert fact.startswith("x in batches over aiohttp")


# --- costs ---------------------------------------------------------------------------------------------------


def test_a_model_that_the_list_has_without_its_provider_has_a_price_of_that_provider_alone() -> (
    None
):
    claude = price_of(LiteLLMConfig(model="anthropic/claude-sonnet-4-5"))
    listed = price_of(LiteLLMConfig(model="claude-sonnet-4-5"))
    assert claude is not None
    assert claude == listed
    assert price_of(LiteLLMConfig(model="groq/claude-sonnet-4-5")) is None


def test_the_batch_price_is_taken_from_the_list() -> None:
    whole, half = (price_of(LiteLLMConfig(model="openai/gpt-4o-mini", batch=b)) for b in (False, True))  # fmt: skip
    assert whole is not None
    assert half is not None
    assert (half.prompt, half.completion) == (whole.prompt / 2, whole.completion / 2)
    given = LiteLLMConfig(model="x", price=PRICE, batch=True)  # type: ignore[arg-type]
    assert price_of(given) == price_of(given.model_copy(update={"batch": False}))
    no_discount = LiteLLMConfig(model="openai/gpt-3.5-turbo-16k")
    assert price_of(no_discount) is not None
    assert price_of(no_discount) == price_of(no_discount.model_copy(update={"batch": True}))


def test_a_batch_is_reserved_in_full_before_it_is_created_and_settled_after(
    build: Callable[..., LiteLLMBackend],
) -> None:
    # A prompt of at most 10 + 64 tokens, an answer of at most 8.
    max_delay = 20 * (0.074 + 0.08)
    with ModelServer(batches=NEVER) as server:
        budget, interrupt = Budget(100.0), Interrupt()
        model = build(server, Site(Path(), budget=budget, interrupt=interrupt), price=PRICE)
        stream = model.stream([*asked(10), *asked(20)[10:]])
        held: list[float] = []

        def ends() -> None:
            held.append(budget.held)
            server.batches.script = BatchScript()

        when(lambda: server.batches.looked > 2, ends)
        done = dict(filter(None, stream))
        assert held == [pytest.approx(max_delay, rel=0.1)]
        assert budget.held == 0
        assert budget.spent == pytest.approx(sum(one.usd or 0 for one in done.values()))
        assert budget.spent == pytest.approx(20 * 0.042)


def test_batches_are_as_large_as_the_remaining_budget(
    build: Callable[..., LiteLLMBackend],
) -> None:
    with ModelServer(batches=BatchScript()) as server:
        budget = Budget(1.6)
        model = build(server, Site(Path(), budget=budget), price=PRICE)
        indices: dict[int, Completion] = {}
        with pytest.raises(BudgetError, match="is used up"):
            indices.update(filter(None, model.stream(asked(100))))
        paid = 0.042 * sum(sizes(server))
        # Each batch is covered in full when it is created, so none exceeds the cap.
        assert sizes(server)[0] == 10
        assert len(sizes(server)) > 2
        assert budget.spent == pytest.approx(paid)
        assert 1.6 - 0.16 < paid <= 1.6


# --- a kill, a lost reply, Ctrl-C ----------------------------------------------------------------------------


def interrupt_after_submission(model: LiteLLMBackend, server: ModelServer, questions: list[Request], interrupt: Interrupt) -> None:  # fmt: skip
    """Submit, and stop like Ctrl-C once a batch is on the server."""
    when(lambda: server.batches.looked > 0, interrupt._requested.set)
    assert list(filter(None, model.stream(questions))) == []
    model.close()


def test_a_submitted_batch_is_resumed_and_paid_once(
    build: Callable[..., LiteLLMBackend], tmp_path: Path
) -> None:
    with ModelServer(batches=NEVER) as server:
        site = Site(tmp_path, state_dir=tmp_path / "state", interrupt=Interrupt())
        interrupt_after_submission(build(server, site), server, asked(30), site.interrupt)
        (record,) = (tmp_path / "state" / "batches").glob("*.json")
        server.batches.script = BatchScript()
        budget = Budget(0.001)  # below its cost bound: it is already paid for
        site = Site(tmp_path, state_dir=tmp_path / "state", budget=budget)
        model = build(server, site, price=PRICE)
        # The second run requests a part of the batch's calls.
        done = model.generate(asked(30)[5:])
        assert texts(done) == expected(30)[5:]
        assert sizes(server) == [30]
        assert budget.spent == pytest.approx(25 * 0.042)
        # The remaining part.
        assert texts(model.generate(asked(30)[:5])) == expected(30)[:5]
        assert sizes(server) == [30]
        assert record.exists()
        model.close()
        assert not record.exists()


@pytest.mark.parametrize("gone", ["batch", "file"])
def test_a_batch_that_the_server_lost_is_reported_with_the_remedy(
    build: Callable[..., LiteLLMBackend], tmp_path: Path, gone: str
) -> None:
    with ModelServer(batches=NEVER) as server:
        site = Site(tmp_path, state_dir=tmp_path / "state", interrupt=Interrupt())
        interrupt_after_submission(build(server, site), server, asked(5), site.interrupt)
        server.batches.script = BatchScript()
        site = Site(tmp_path, state_dir=tmp_path / "state")
        if gone == "batch":
            server.batches.made.clear()
        else:
            server.batches.made[0].update(status="completed", output_file_id="deleted")
        with pytest.raises(ModelError, match="404") as error:
            build(server, site).generate(asked(5))
        (record,) = (tmp_path / "state" / "batches").glob("*.json")
        assert f"its record is {record}: remove that file" in str(error.value)
        record.unlink()
        assert texts(build(server, site).generate(asked(5))) == expected(5)


@pytest.mark.parametrize("moment", ["before", "after", "unlisted"])
def test_a_kill_while_the_batch_is_created(
    build: Callable[..., LiteLLMBackend], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:  # fmt: skip
    create = BatchApi.create

    async def killed(api: BatchApi, file: str) -> Any:
        if moment != "before":
            await create(api, file)
        raise MemoryError("killed")

    with ModelServer(batches=BatchScript(listed=moment != "unlisted")) as server:
        site = Site(tmp_path, state_dir=tmp_path / "state")
        with monkeypatch.context() as patch:
            patch.setattr(BatchApi, "create", killed)
            with pytest.raises(MemoryError):
                build(server, site).generate(asked(10))
        # Many batches of other users follow.
        server.batches.made += [{"id": f"other_{n}", "status": "completed", "input_file_id": f"x{n}"} for n in range(45)]  # fmt: skip
        assert texts(build(server, site).generate(asked(10))) == expected(10)
        ours = [batch for batch in server.batches.made if batch["id"].startswith("batch_")]
        assert len(ours) == (2 if moment == "unlisted" else 1)  # without a list it cannot be found
        assert all(len(kinds) == 1 for kinds in server.plan.served.values())


def test_failed_calls_of_an_earlier_run_s_batch_are_retried(
    build: Callable[..., LiteLLMBackend], tmp_path: Path
) -> None:
    with ModelServer(Script(faults={"no_quota": 1.0}), batches=BatchScript()) as server:
        site = Site(tmp_path, state_dir=tmp_path / "state")
        with pytest.raises(ModelError, match="no quota is left"):
            build(server, site).generate(asked(10))
        server.plan.script = Script()
        assert texts(build(server, site).generate(asked(10))) == expected(10)
        assert sizes(server) == [10, 10]


RECIPE = """\
name: batches
answer: exact
chunk: 1000
models:
  expert: {{use: litellm, model: test, api_base: "{url}", batch: true}}
source: {{use: jsonl, path: rows.jsonl}}
samples:
  - {{use: robustft.answer, llm: expert, into: base}}
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_ends_during_its_batch_resumes_it(
    tmp_path: Path, number: signal.Signals
) -> None:
    rows = [{"id": str(n), "prompt": f"what is {n}", "response": str(n)} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with ModelServer(batches=NEVER) as server:
        (tmp_path / "r.yaml").write_text(RECIPE.format(url=server.url))
        line = [sys.executable, "-m", "nfilter", "run", "r.yaml", "--out", "out"]
        process = subprocess.Popen(
            line, cwd=tmp_path, env=dict(os.environ), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )  # fmt: skip
        while not server.batches.looked:
            time.sleep(0.01)
        process.send_signal(number)
        error = process.communicate()[1].decode()
        if number == signal.SIGINT:
            assert process.returncode == 130, error
            assert "interrupted: the batch stays on the server, and the same command resumes it" in error  # fmt: skip
        server.batches.script = BatchScript()
        again = subprocess.run(line, cwd=tmp_path, check=False, capture_output=True)
        assert again.returncode == 0, again.stderr
        assert sizes(server) == [40]
        assert all(kinds == ["ok"] for kinds in server.plan.served.values())
        assert not list((tmp_path / "out" / "state").rglob("*.json"))
