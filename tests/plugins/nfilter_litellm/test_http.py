"""The aiohttp transport against a real socket: request bodies, the outcome of each fault, and secrecy of the key."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from nfilter import Completion, Message, ModelError, Request, Sampling
from tests.model_server.faults import Phase, Script, answer, logprob
from tests.model_server.server import ModelServer

CANARY = "sk-canary-4f1d9a77c2e84b"
ONE = [{"role": "user", "content": "question 0"}]


def test_answers_logprobs_and_token_counts_come_back_in_order(
    backend: Callable[..., Any], requests: Callable[..., list[Request]]
) -> None:
    with ModelServer(Script(latency=0.002)) as server:
        done = backend(server.url).generate(requests(100, logprobs=True))
    for index, one in enumerate(done):
        text = answer([{"role": "user", "content": f"question {index}"}])
        assert (one.text, one.finish, one.failure) == (text, "stop", None)
        assert one.logprobs == pytest.approx([logprob(word) for word in text.split()])
        assert (one.prompt_tokens, one.completion_tokens) == (2, 4)
    assert server.plan.counts == {"ok": 100}


def test_request_bodies(backend: Callable[..., Any]) -> None:
    asked = Request(
        (Message("system", "Be brief."), Message("user", "1+1?")),
        Sampling(max_tokens=7, temperature=0.5, top_p=0.9, seed=11, stop=("\n",)),
        logprobs=True,
        draw=2,
    )
    greedy = Request((Message("user", "1+1?"),), Sampling(max_tokens=7, seed=11, top_p=0.9))
    with ModelServer() as server:
        model = backend(server.url, "org/name", body={"top_k": 1, "reasoning_effort": "low"})
        model.generate([asked, greedy])
        other = backend(server.url, "openai/name", max_tokens=99, logprobs=False, body={"temperature": None})  # fmt: skip
        other.generate([asked])
    first, second = sorted(server.asked[:2], key=lambda body: -len(body["messages"]))
    assert first == {
        "model": "org/name",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}],
        "max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "stop": ["\n"], "logprobs": True,
        "seed": (11 + 2 * 0x9E3779B1) % 2**31, "top_k": 1, "reasoning_effort": "low",
    }  # fmt: skip
    assert {key: second[key] for key in ("max_tokens", "temperature")} == {"max_tokens": 7, "temperature": 0.0}  # fmt: skip
    assert not {"seed", "top_p", "stop", "logprobs"} & set(second)
    third = server.asked[2]
    assert (third["model"], third["max_tokens"]) == ("name", 99)
    assert not {"temperature", "logprobs"} & set(third)


@pytest.mark.parametrize("transport", ["aiohttp", "litellm"])
def test_a_text_ends_before_its_stop_strings_on_every_server(
    backend: Callable[..., Any], transport: str
) -> None:
    """OpenAI's servers omit them, `transformers serve` includes them, and some servers ignore them."""
    reply = Completion("steps: 3\nanswer: 7\nmore", "length", (-0.5, -0.25, -0.125))
    asked = [
        Request((Message("user", f"{n}"),), Sampling(max_tokens=9, stop=stop), logprobs=True)
        for n, stop in enumerate([(), ("nothing", ""), ("answer", "\n"), ("more",)])
    ]
    with ModelServer(Script(answer=lambda _: reply)) as server:
        done = backend(server.url, transport=transport).generate(asked)
    assert [(one.text, one.finish) for one in done] == [
        (reply.text, "length"), (reply.text, "length"), ("steps: 3", "stop"), ("steps: 3\nanswer: 7\n", "stop"),
    ]  # fmt: skip
    assert {one.logprobs for one in done} == {reply.logprobs}


TERMINAL = {
    "empty": ("parse", "the answer is empty", 1), "off_schema": ("parse", "it has no choices", 3),
    "refusal": ("refused", "I cannot help", 1), "filtered": ("refused", "content filter", 1),
    "overflow": ("too_long", "4097 tokens", 1), "overflow_vllm": ("too_long", "2048 tokens", 1),
    "overflow_llama": ("too_long", "400 exceed_context_size_error: request (3003 tokens)", 1),
    "hang": ("timeout", "no reply within 0.3 s", 3), "error": ("server", "500 server_error", 3),
    "unavailable": ("server", "503", 3), "reset": ("server", "the connection failed", 3),
    "truncated": ("server", "status 200 and is not JSON", 3), "empty_body": ("server", "it is empty", 3),
    "html": ("server", "begins with '<html>", 3), "drip": ("server", "more than 16 MiB", 3),
    "no_logprobs": ("server", "ignores logprobs", 1), "limited": ("server", "429 rate_limit_exceeded", None),
    "limited_after": ("server", "rejected", None), "redirect": ("server", "redirects are not followed", 1),
    "unauthorized": ("server", "401 invalid_api_key", 1), "no_quota": ("server", "no quota is left", 1),
    "unknown_model": ("server", "404 model_not_found", 1), "forbidden": ("server", "403", 1),
}  # fmt: skip


@pytest.mark.parametrize("kind", TERMINAL)
def test_each_fault_has_its_failure(
    backend: Callable[..., Any], requests: Callable[..., list[Request]], kind: str
) -> None:
    failure, words, tries = TERMINAL[kind]
    with ModelServer(Script(hang=5.0, retry_after=0.01)) as server:
        model = backend(server.url, timeout=0.3 if kind == "hang" else 30, attempts=3)
        good, bad = requests(2, logprobs=True)
        assert model.generate([good])[0].failure is None
        server.plan.script = Script(faults={kind: 1.0}, hang=5.0, retry_after=0.01)
        (done,) = model.generate([bad])
        assert (done.text, done.finish, done.logprobs) == ("", "failed", None)
        assert done.failure is not None
        assert done.failure.kind == failure
        assert words in done.failure.detail
        replies = server.plan.served["question 1"]
        assert set(replies) == {kind}
        assert len(replies) == tries if tries else len(replies) > 3
        assert "/taken" not in server.paths
    if kind == "drip":
        assert server.dripped < 3 * (16 + 16) * 2**20  # plus the sockets' buffers


def test_the_key_is_sent_to_its_server_and_appears_in_no_text(
    backend: Callable[..., Any],
    requests: Callable[..., list[Request]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(1)
    monkeypatch.setenv("MY_KEY", CANARY)
    with ModelServer(Script(key=CANARY, answer=lambda _: f"I know {CANARY}!")) as server:
        (done,) = backend(server.url, api_key_env="MY_KEY").generate(requests(1))
        assert server.keys == {CANARY}
        assert done.text == "I know ***!"
    with ModelServer(Script(key="another")) as server:
        model = backend(server.url, api_key_env="MY_KEY")
        with pytest.raises(ModelError) as error:
            model.generate(requests(50))
        assert "401 invalid_api_key: Incorrect API key provided: ***" in str(error.value)
        assert sum(server.plan.counts.values()) <= 3 + 20
        assert CANARY not in str(error.value)
        assert CANARY not in repr(vars(model))
        assert error.value.__cause__ is None
    with ModelServer() as server:
        backend(server.url).generate(requests(1))
        assert server.keys == {""}
    assert CANARY not in caplog.text


def test_an_address_without_a_server(
    backend: Callable[..., Any], requests: Callable[..., list[Request]]
) -> None:
    with ModelServer() as server:
        url = server.url
    with pytest.raises(ModelError, match=rf"model 'test' at {url}: 3 consecutive calls failed, .*the connection failed"):  # fmt: skip
        backend(url, attempts=2).generate(requests(200))


def test_a_permanent_401_ends_the_run_within_three_calls_and_the_running_ones(
    backend: Callable[..., Any], requests: Callable[..., list[Request]]
) -> None:
    """No refusal is sent before the server has refused all running calls: after the first two a call starts, then none."""
    phase = Phase(48, math.inf, "unauthorized")
    with ModelServer(Script(phases=[phase], by_calls=True, together=12)) as server:
        model = backend(server.url, concurrency=12)
        answered = []
        with pytest.raises(ModelError, match="401"):
            answered.extend(filter(None, model.stream(requests(2000))))
        assert 12 <= server.plan.counts["unauthorized"] <= 12 + 2
        assert model.tally().attempts <= 48 + 12 + 2
        good = [done for _, done in answered if done.failure is None]
        assert len(good) == server.plan.counts["ok"] == 48
        assert len(answered) == 48 + 2


def test_an_outage_over_a_socket(
    backend: Callable[..., Any], requests: Callable[..., list[Request]]
) -> None:
    """The server rejects 80 calls, whenever they come; the clock decides nothing.

    The first rejection begins a window. At most 11 rejections in it end it, because at most 11 other calls are in flight:
    then half of the calls that it started are rejected. With the 12 calls before it and the 11 in flight at its end, at
    most 34 calls are rejected before single calls probe.
    """
    phase = Phase(100, 180, "limited_after")
    script = Script(phases=[phase], by_calls=True, retry_after=0.01)
    with ModelServer(script) as server:
        model = backend(server.url, concurrency=12, patience=600.0)
        done = model.generate(requests(500))
        assert all(one.failure is None for one in done)
        assert server.plan.counts == {"ok": 500, "limited_after": 80}
        rejected = [calls for kind, calls in server.plan.decided if kind == "limited_after"]
        assert set(rejected[34:]) == {1}
        assert model.tally().attempts == 580


def test_a_fixed_concurrency_is_never_exceeded(
    backend: Callable[..., Any], requests: Callable[..., list[Request]]
) -> None:
    with ModelServer(Script(latency=0.01)) as server:
        backend(server.url, concurrency=3).generate(requests(50))
        assert server.plan.most_in_flight == 3
