"""Costs of calls and the budget's cap, counted independently at the server."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from nfilter import (
    Budget,
    BudgetError,
    Completion,
    Message,
    ModelError,
    Price,
    Request,
    Sampling,
    Site,
)
from nfilter.engine.run import run
from nfilter.recipe.model import load as load_recipe
from nfilter.registry.loading import load as load_plugins
from nfilter_litellm.backend import LiteLLMBackend
from nfilter_litellm.client_guards import RefusedReplyError, guard_clients, sent_once
from nfilter_litellm.config import LiteLLMConfig
from nfilter_litellm.failures import from_status
from nfilter_litellm.prices import price_of
from tests.model_server.faults import Script, completion
from tests.model_server.server import ModelServer

PER_MILLION = {"prompt": 1000.0, "completion": 10000.0}
PRICE = Price(0.001, 0.01)
BILLED = ("ok", "truncated", "empty", "refusal", "filtered", "off_schema", "no_logprobs")
# The model may have run, though no valid reply arrived.
MAY_BE_BILLED = ("error", "gateway", "reset", "hang", "html", "empty_body")
RECIPE = """\
name: money
answer: exact
budget: {{usd: {cap}}}
models:
  expert: {{use: litellm, model: test, api_base: "{url}", concurrency: 8, price: {{prompt: 1000, completion: 10000}}}}
source: {{use: jsonl, path: rows.jsonl}}
samples:
  - {{use: robustft.answer, llm: expert, into: base, max_tokens: 8}}
"""


def requests(n: int) -> list[Request]:
    return [
        Request((Message("user", f"what is {i} and {i + 1}"),), Sampling(max_tokens=8), sample_id=f"s{i}")
        for i in range(n)
    ]  # fmt: skip


def billed(server: ModelServer, kinds_billed: tuple[str, ...] = BILLED) -> float:
    """Return the dollars that a provider would bill for replies of the given kinds, by default those with status 200."""
    total = 0.0
    for content, kinds in server.plan.served.items():
        for kind in kinds:
            if kind in kinds_billed:
                messages = [{"role": "user", "content": content}]
                usage = completion(server.plan.script, messages, {"max_tokens": 8}, kind)["usage"]
                total += PRICE.of(usage["prompt_tokens"], usage["completion_tokens"])
    return total


def backend(server: ModelServer, budget: Budget | None, **more: Any) -> LiteLLMBackend:
    config = LiteLLMConfig(model="test", api_base=server.url, price=PER_MILLION, **more)  # type: ignore[arg-type]
    return LiteLLMBackend(config, Site(Path(), budget=budget))


def spend(made: LiteLLMBackend, asked: list[Request]) -> tuple[list[Completion], bool]:
    """Return the answers, and whether the budget ended the calls."""
    answers = []
    try:
        for _, answer in filter(None, made.stream(asked)):
            answers.append(answer)
    except BudgetError:
        return answers, True
    finally:
        made.close()
    return answers, False


@pytest.mark.parametrize("seed", range(20))
def test_billed_costs_stay_within_the_cap(seed: int) -> None:
    faults = {"error": 0.1, "truncated": 0.05, "empty": 0.05, "refusal": 0.05, "limited": 0.05}
    with ModelServer(Script(faults=faults, seed=seed, latency=0.002)) as server:
        budget = Budget(1.0 + seed / 4)
        answers, ended = spend(backend(server, budget, concurrency=64), requests(400))
        assert ended
        assert answers
        assert billed(server) <= budget.spent + 1e-9 <= budget.cap + 2e-9
        # The unused rest is less than the cost bound of one call.
        assert budget.cap - budget.spent < PRICE.of(100 + 64, 8)


def test_an_answer_contains_its_cost_and_that_of_earlier_attempts() -> None:
    with ModelServer(Script(faults={"truncated": 0.3}, seed=1)) as server:
        answers, _ = spend(backend(server, None), requests(40))
        paid = sum(answer.usd or 0.0 for answer in answers)
        assert paid >= billed(server)
        for answer in answers:
            own = PRICE.of(answer.prompt_tokens, answer.completion_tokens)
            assert answer.usd is not None
            assert answer.usd == pytest.approx(own) or answer.usd > own
        clean = [a for a in answers if a.usd == pytest.approx(PRICE.of(a.prompt_tokens, a.completion_tokens))]  # fmt: skip
        assert len(clean) == sum(kinds == ["ok"] for kinds in server.plan.served.values())


@pytest.mark.parametrize("transport", ["aiohttp", "litellm"])
def test_attempts_that_may_be_billed_count_as_billed(transport: str) -> None:
    """Gateway timeouts, server errors, lost connections, missing replies."""
    faults = dict.fromkeys(("gateway", "error", "reset", "html", "empty_body"), 0.08)
    hang, timeout = (0.04, 1.0) if transport == "aiohttp" else (0.0, 30.0)
    with ModelServer(Script(faults={**faults, "hang": hang}, seed=2, hang=9.0)) as server:
        made = backend(server, None, transport=transport, timeout=timeout, attempts=2)
        answers, _ = spend(made, requests(60))
        assert sum(server.plan.counts[kind] for kind in MAY_BE_BILLED) > 15
        paid = sum(answer.usd or 0.0 for answer in answers)
        assert billed(server, BILLED + MAY_BE_BILLED) <= paid


@pytest.mark.parametrize("seed", range(3))
def test_the_cap_holds_for_gateway_timeouts(seed: int) -> None:
    with ModelServer(Script(faults={"gateway": 0.5}, seed=seed)) as server:
        budget = Budget(2.0)
        _, ended = spend(backend(server, budget, concurrency=16, attempts=2), requests(300))
        assert ended
        assert server.plan.counts["gateway"] > 3
        assert billed(server, (*BILLED, "gateway")) <= budget.spent + 1e-9 <= budget.cap + 2e-9


@pytest.mark.parametrize("transport", ["aiohttp", "litellm"])
def test_a_lost_connection_is_one_request(transport: str) -> None:
    """litellm's own client would resend it without counting it."""
    model = "anthropic/claude-3-5-haiku-latest" if transport == "litellm" else "test"
    connections = []

    def lost(reader: socket.socket) -> None:
        connections.append(whole_request(reader))

    with listening(lost) as url:
        config = LiteLLMConfig(
            model=model, api_base=url, attempts=1, price=PER_MILLION, transport=transport
        )  # type: ignore[arg-type]
        budget = Budget(50.0)
        made = LiteLLMBackend(config, Site(Path(), budget=budget))
        with pytest.raises(ModelError, match="onnect"):
            spend(made, requests(1))
    assert len(connections) == 1
    assert budget.spent > 0


def test_litellm_s_clients_send_once_per_attempt() -> None:
    """Some versions of its handlers retry after a lost connection, others after a failed one."""
    import httpx

    from nfilter_litellm.providers import library

    library()
    guard_clients()
    from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler

    connections = []

    async def twice(url: str) -> list[type[Exception]]:
        client = AsyncHTTPHandler().client
        raised = []
        with sent_once():
            for _ in range(2):
                try:
                    await client.post(url, json={})
                except (httpx.HTTPError, RefusedReplyError) as error:
                    raised.append(type(error))
        await client.aclose()
        return raised

    with listening(lambda one: connections.append(whole_request(one))) as url:
        assert asyncio.run(twice(url)) == [httpx.RemoteProtocolError, RefusedReplyError]
    assert len(connections) == 1
    assert asyncio.run(twice(url)) == [httpx.ConnectError, httpx.ConnectError]


def whole_request(one: socket.socket) -> bytes:
    """Read a request with its body: a connection that is closed before that is reset, and not lost."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += one.recv(2**16)
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)^content-length: *(\d+)", head, re.MULTILINE)
    while length is not None and len(body) < int(length[1]):
        body += one.recv(2**16)
    return head + body


@contextmanager
def listening(handle: Callable[[socket.socket], None]) -> Iterator[str]:
    """Run a server that passes each connection to ``handle`` and closes it; yield its address."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                one, _ = server.accept()
            except OSError:
                return
            with one:
                handle(one)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


@pytest.mark.parametrize("kind", ["unavailable", "unauthorized", "overflow"])
def test_rejected_attempts_cost_nothing(kind: str) -> None:
    with ModelServer(Script(faults={kind: 1.0})) as server:
        budget = Budget(1.0)
        # A single call: one that is cancelled when the run ends may be billed.
        made = backend(server, budget, attempts=2, concurrency=1)
        with suppress(ModelError):
            spend(made, requests(1))
        assert server.plan.counts[kind] > 0
        assert budget.spent == 0


def test_an_unreachable_server_costs_nothing() -> None:
    with ModelServer() as server:
        url = server.url
    for model, transport in (("x", "aiohttp"), ("x", "litellm"), ("anthropic/y", "litellm")):
        budget = Budget(1.0)
        config = LiteLLMConfig(
            model=model,
            api_base=url,
            attempts=1,
            price=PER_MILLION,
            transport=transport,
            concurrency=1,
        )  # type: ignore[arg-type]
        with pytest.raises(ModelError, match="onnect"):
            spend(LiteLLMBackend(config, Site(Path(), budget=budget)), requests(5))
        assert budget.spent == 0


@pytest.mark.parametrize(
    ("status", "may"),
    [(400, False), (401, False), (404, False), (408, True), (413, False), (429, False), (499, True), (500, True), (501, False),
     (502, True), (503, False), (504, True), (520, True), (522, False), (524, True), (529, False)],
)  # fmt: skip
def test_statuses_that_may_be_billed(status: int, may: bool) -> None:
    assert from_status(status, "").may_be_billed == may


def test_prices_come_from_the_config_then_litellm_s_list() -> None:
    assert price_of(LiteLLMConfig(model="x", price=PER_MILLION)) == PRICE  # type: ignore[arg-type]
    listed = price_of(LiteLLMConfig(model="openai/gpt-4o-mini"))
    assert listed is not None
    assert 0 < listed.prompt < listed.completion < 1e-4
    assert price_of(LiteLLMConfig(model="nobody/knows-this")) is None


@pytest.mark.types("raise budget.usd and run")
def test_a_run_ends_at_its_budget_and_continues_with_a_higher_one(
    tmp_path: Path, command: Callable[..., Any]
) -> None:
    rows = [{"id": str(n), "prompt": f"what is {n}", "response": str(n)} for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with ModelServer(Script()) as server:
        (tmp_path / "r.yaml").write_text(RECIPE.format(url=server.url, cap=1.5))
        done = command("run", "r.yaml", "--out", "out", cwd=tmp_path)
        assert done.returncode == 8, done.stderr
        assert "raise budget.usd and run the same command to resume" in done.stderr
        first = server.plan.report()["attempts"]
        assert 0 < first < 60
        done = command("run", "r.yaml", "--out", "out", "--set", "budget.usd=50", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert server.plan.report()["attempts"] == 60  # no call was repeated
        assert "dollars" in done.stdout
        usd = json.loads((tmp_path / "out" / "metrics.json").read_text())["usd"]
        assert usd == pytest.approx(billed(server))
        check = command("check", "r.yaml", "--set", "models.expert.price=null", cwd=tmp_path)
        assert check.returncode == 2
        assert "a budget needs a price" in check.stderr
        plan = command("plan", "r.yaml", cwd=tmp_path)
        assert "the budget of $1.5 is too small" in plan.stdout


class _Notes:
    """A reporter that records the cost note of each progress bar at every answer."""

    def __init__(self) -> None:
        self.texts: list[str | None] = []

    def info(self, text: str) -> None: ...

    def warning(self, text: str) -> None: ...

    @contextmanager
    def progress(
        self, total: int | None, text: str, note: Callable[[], str] | None = None
    ) -> Iterator[_Notes]:
        self._note = note
        yield self
        self.advance()

    def advance(self, n: int = 1) -> None:
        self.texts.append(self._note() if self._note is not None else None)


def notes(home: Path, text: str, *sets: str) -> list[str | None]:
    (home / "r.yaml").write_text(text)
    plugins = load_plugins(block=())
    reporter = _Notes()
    with suppress(BudgetError):
        run(load_recipe(home / "r.yaml", plugins, sets), plugins, home / "out", reporter=reporter)
    return reporter.texts


def test_the_bar_shows_the_spent_budget_including_resumed_runs(tmp_path: Path) -> None:
    rows = [{"id": str(n), "prompt": f"what is {n}", "response": str(n)} for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with ModelServer(Script()) as server:
        text = RECIPE.format(url=server.url, cap=1.5)
        first = notes(tmp_path, text)
        assert first[0] is not None
        # The reserved amount depends on the number of running calls.
        assert re.fullmatch(r"\$[01]\.\d\d of \$1\.50(, \$\d\.\d\d held)?", first[0])
        paid = billed(server)
        second = notes(tmp_path, text, "budget.usd=50")
        shown = [
            float(re.match(r"\$(\d+\.\d\d) of \$50\.00", said or "").group(1)) for said in second
        ]  # type: ignore[union-attr]
        # The first answer's note includes the first run's cost, and the last note the total.
        assert shown[0] >= round(paid, 2)
        assert shown == sorted(shown)
        assert shown[-1] == pytest.approx(billed(server), abs=0.006)


@pytest.mark.parametrize(
    ("price", "said"),
    [("{prompt: 1000, completion: 10000}", r"\$\d+\.\d\d"), ("null", "price unknown"), ("{prompt: 0, completion: 0}", None)],
)  # fmt: skip
def test_the_bar_without_a_budget(tmp_path: Path, price: str, said: str | None) -> None:
    (tmp_path / "rows.jsonl").write_text('{"id": "1", "prompt": "what is 1", "response": "1"}\n')
    with ModelServer(Script()) as server:
        text = RECIPE.format(url=server.url, cap=1).replace("budget: {usd: 1}\n", "")
        found = notes(tmp_path, text, f"models.expert.price={price}")
    assert found
    for each in found:
        assert each is None if said is None else re.fullmatch(said, each or "")
