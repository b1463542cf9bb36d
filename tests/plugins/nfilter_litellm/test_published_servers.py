"""Replies in the forms that servers and gateways publish: compressed, with parts, with the error of another server inside."""

from __future__ import annotations

import gzip
import json
import re
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from nfilter import Completion, Message, ModelError, Request, Sampling, Site
from nfilter_litellm.backend import LiteLLMBackend
from nfilter_litellm.batch_lines import BatchFormat, BatchPricing
from nfilter_litellm.config import LiteLLMConfig
from nfilter_litellm.failures import CallError, from_status
from nfilter_litellm.keys import Secret
from nfilter_litellm.limit_field import LimitField
from nfilter_litellm.protocol import read
from nfilter_litellm.providers import fault_of

Reply = tuple[int, Mapping[str, str], bytes]
PRICE = {"prompt": 1e6, "completion": 1e6}  # a dollar per token
KEY = "sk-canary/4f1d9a77+c2e84b=="


@contextmanager
def serving(answer: Callable[[dict[str, Any]], Reply]) -> Iterator[str]:
    """Run a server that replies with the status, headers and body of ``answer``; yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, headers, body = answer(
                json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            )
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{made.server_port}/v1"
    finally:
        made.shutdown()
        made.server_close()


def ask(url: str, texts: int = 1, *, logprobs: bool = False, **more: Any) -> list[Completion]:
    sampling = Sampling(max_tokens=8, temperature=0.7, stop=("\n\n",))
    requests = [Request((Message("user", f"{n}"),), sampling, logprobs) for n in range(texts)]
    config = {"model": "x", "api_base": url, "logprobs": logprobs, "attempts": 2, **more}
    made = LiteLLMBackend(LiteLLMConfig.model_validate(config), Site(Path()))
    try:
        return made.generate(requests)
    finally:
        made.close()


def chat(content: Any, usage: Any = None, **message: Any) -> dict[str, Any]:
    counts = {"prompt_tokens": 9, "completion_tokens": 3} if usage is None else usage
    choice = {"message": {"content": content, **message}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": counts}


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda body: zlib.compress(body, wbits=-15)),
        ("identity", bytes),
    ],
)
def test_a_reply_compressed_without_request_is_read(
    coding: str, packed: Callable[[bytes], bytes]
) -> None:
    def answer(asked: dict[str, Any]) -> Reply:
        long = {"error": {"message": "This model's maximum context length is 10 tokens."}}
        status, value = (200, chat("4")) if asked["messages"][0]["content"] == "0" else (400, long)
        return status, {"Content-Encoding": coding}, packed(json.dumps(value).encode())

    with serving(answer) as url:
        good, bad = ask(url, 2)
    assert (good.text, good.failure) == ("4", None)
    assert bad.failure is not None
    assert bad.failure.kind == "too_long"


def test_a_compressed_reply_that_is_too_large_is_not_unpacked() -> None:
    body = gzip.compress(b" " * (17 * 2**20))
    with (
        serving(lambda _: (200, {"Content-Encoding": "gzip"}, body)) as url,
        pytest.raises(ModelError, match="the reply has more than 16 MiB"),
    ):
        ask(url)


@pytest.mark.parametrize(("coding", "body"), [("br", b"\x0b\x02\x80{}\x03"), ("gzip", b"{}")])
def test_a_reply_in_another_compression_is_named(coding: str, body: bytes) -> None:
    with (
        serving(lambda _: (200, {"Content-Encoding": coding}, body)) as url,
        pytest.raises(ModelError, match=rf"it is compressed \({coding}\), which was not requested"),
    ):
        ask(url)


def test_headers_of_20_kilobytes_are_read() -> None:
    body = json.dumps(chat("4")).encode()
    with serving(lambda _: (200, {"X-Policy": "a" * 20_000}, body)) as url:
        (done,) = ask(url)
    assert done.text == "4"


PARTS = [
    ([{"type": "thinking", "thinking": [{"type": "text", "text": "is it 5"}]}, {"type": "text", "text": "4"}], "4", "is it 5"),
    ([{"type": "reasoning", "text": "is it 5"}, {"type": "output_text", "text": "4"}], "4", "is it 5"),
    ([{"type": "reasoning", "summary": [{"type": "summary_text", "text": "is it 5"}]}, {"type": "text", "text": "4"}], "4", "is it 5"),
    ([{"type": "redacted_thinking", "data": "x"}, {"text": "4"}], "4", None),
]  # fmt: skip


@pytest.mark.parametrize(("content", "text", "reasoning"), PARTS)
def test_reasoning_among_the_parts_of_a_message_is_no_part_of_the_answer(
    content: Any, text: str, reasoning: str | None
) -> None:
    done = read(chat(content), logprobs=False)
    assert (done.text, done.reasoning) == (text, reasoning)


def test_a_refusal_among_the_parts_of_a_message_is_a_refusal() -> None:
    with pytest.raises(CallError, match="the model refused: I cannot help") as error:
        read(chat([{"type": "refusal", "refusal": "I cannot help"}]), logprobs=False)
    assert (error.value.kind, error.value.is_answer) == ("refused", True)


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}, 12),
        ({"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 112}, 112),  # xAI, Gemini
        ({"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 0}, 12),
        ({"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": None}, 12),
    ],
)
def test_reasoning_counted_in_the_total_alone_is_paid(usage: dict[str, Any], cost: float) -> None:
    with serving(lambda _: (200, {}, json.dumps(chat("4", usage)).encode())) as url:
        (done,) = ask(url, price=PRICE)
    assert done.usd == cost


@pytest.mark.parametrize(
    ("value", "kind", "attempts"),
    [
        (chat("", refusal="I cannot help"), "refused", 1),
        (chat(None), "parse", 1),
        ({"usage": {"prompt_tokens": 9, "completion_tokens": 3}}, "parse", 2),
    ],
)
def test_a_failure_with_counts_costs_what_it_counts(
    value: dict[str, Any], kind: str, attempts: int
) -> None:
    good = chat("4")

    def answer(asked: dict[str, Any]) -> Reply:
        first = asked["messages"][0]["content"] == "0"
        return 200, {}, json.dumps(good if first else value).encode()

    with serving(answer) as url:
        _, done = ask(url, 2, price=PRICE)
    assert done.failure is not None
    assert done.failure.kind == kind
    assert (done.usd, done.prompt_tokens, done.completion_tokens) == (12 * attempts, 9, 3)


INSIDE = json.dumps({"error": {"message": "This model's maximum context length is 8192 tokens."}})


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": INSIDE, "provider_name": "X"}}},
        {"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": "maximum context length is 10"}}},
        {"error": {"message": f"litellm.ContextWindowExceededError: {'of a proxy ' * 40}: the maximum context length is 10", "code": "400"}},
        [{"error": {"message": "The input token count (1200293) exceeds the maximum number of tokens allowed (1048576).", "code": 400, "status": "INVALID_ARGUMENT"}}],
    ],
)  # fmt: skip
def test_a_router_s_error_says_what_the_provider_s_says(body: Any) -> None:
    fault = from_status(400, json.dumps(body))
    assert (fault.kind, fault.is_answer) == ("too_long", True)
    assert len(fault.detail) <= 300


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("Unexpected endpoint or method. (POST /chat/completions)", "Unexpected endpoint or method"),
        ({"message": "No such deployment", "code": "404"}, "404: No such deployment"),
    ],
)  # fmt: skip
def test_an_error_with_status_200_is_shown(error: Any, words: str) -> None:
    with pytest.raises(CallError, match=words):
        read({"error": error}, logprobs=False)


NO_STATUS = "the reply has status 200 and an error without an HTTP status"
UNCODED = [
    ({"error": {"message": "Model overloaded"}}, ": Model overloaded"),
    ({"error": {"message": "no balance", "code": "1113"}}, ": 1113: no balance"),
    ({"error": {"message": "no balance", "code": 1113}}, ": 1113: no balance"),
    ({"error": {"message": "upstream", "type": "server_error", "code": None}}, ": server_error: upstream"),
    ({"error": {"status": "UNAVAILABLE", "message": ""}}, ": UNAVAILABLE"),
    ({"error": {"detail": "worker died"}}, ": worker died"),
    ({"error": "busy"}, ": busy"),
    ({"error": ["a", "b"]}, ": ['a', 'b']"),
    ({"error": True}, ": True"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "words"), UNCODED)
def test_an_error_that_names_no_status_is_shown_as_it_came(body: Any, words: str) -> None:
    """No status is invented: the reply has status 200."""
    with pytest.raises(CallError) as error:
        read(body, logprobs=False)
    fault = error.value
    assert fault.detail == NO_STATUS + words
    assert (fault.kind, fault.retry, fault.effect, fault.status) == ("server", True, "strained", None)  # fmt: skip


@pytest.mark.parametrize("transport", ["aiohttp", "litellm"])
@pytest.mark.parametrize(
    ("error", "words"),
    [
        ({"message": "Model overloaded"}, f"{NO_STATUS}: Model overloaded (attempt 2)"),
        ({"message": "no balance", "code": "1113"}, f"{NO_STATUS}: 1113: no balance (attempt 2)"),
        ({"message": "rejected", "code": "403"}, "403: rejected"),
    ],
)
def test_no_transport_invents_a_status(transport: str, error: Any, words: str) -> None:

    def answer(asked: dict[str, Any]) -> Reply:
        good = asked["messages"][0]["content"] == "0"
        return (
            200,
            {"Content-Type": "application/json"},
            json.dumps(chat("yes") if good else broken).encode(),
        )

    broken = {"error": error}
    with serving(answer) as url:
        first, second = ask(url, 2, transport=transport)
    assert first.failure is None
    assert second.failure is not None
    assert (second.failure.kind, second.failure.detail) == ("server", words)


def test_a_reply_with_an_error_in_a_form_of_its_own_is_shown() -> None:
    with pytest.raises(CallError) as error:
        read({"code": 1002, "msg": "rate limit\x1b[31m", "data": "x" * 500}, logprobs=False)
    assert (
        'it has no choices; it begins with \'{"code": 1002, "msg": "rate limit'
        in error.value.detail
    )
    assert "\x1b" not in error.value.detail
    assert len(error.value.detail) < 300


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"response": {"status_code": None, "body": {"error": {"message": "gone"}}}},
         "the line of the batch has a response without an HTTP status: gone"),
        ({"response": {"body": {"error": {"message": "gone", "code": 1301}}}},
         "the line of the batch has a response without an HTTP status: 1301: gone"),
        ({"error": {"message": "gone"}}, "gone"),
        ({"error": {"code": "expired", "message": None}}, "expired"),
        ({"error": {}}, "the line has an error without code and message"),
    ],
)  # fmt: skip
def test_a_line_of_a_batch_without_a_status_is_shown_as_it_came(
    line: dict[str, Any], words: str
) -> None:
    pricing = BatchPricing(None, None, None)
    form = BatchFormat(lambda *_: {}, LimitField("max_tokens"), "f", False, pricing)
    (call,) = form.calls([Request((Message("user", "q"),), Sampling())]).values()
    with pytest.raises(CallError) as error:
        form.answer(call, line)
    assert error.value.detail == words


def test_a_rate_limit_with_status_200_is_no_billed_attempt() -> None:
    with pytest.raises(CallError) as error:
        read({"error": {"code": "429", "message": "Rate limit exceeded"}}, logprobs=False)
    assert (error.value.effect, error.value.may_be_billed) == ("limited", False)


GEMINI = (
    "You exceeded your current quota, please check your plan and billing details. * Quota exceeded for metric: "
    "generativelanguage.googleapis.com/generate_content_free_tier_requests, limit: 10, model: gemini-2.5-flash\nPlease retry "
)


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        (f"{GEMINI}in 34.074824224s.", 34.074824224),
        ("Rate limit reached for model in organization. Please try again in 7m54.6s.", 474.6),
        ("Rate limit is exceeded. Try again in 43 seconds.", 43.0),
        ("Too many requests. Please retry after 2 s", 2.0),
        ("Rate limit reached. Please try again in 120ms.", 0.12),
        ("slow down", None),
    ],
)
def test_a_rate_limit_that_says_when_to_try_again_waits(words: str, seconds: float | None) -> None:
    for body in ({"error": {"message": words}}, [{"error": {"message": words, "code": 429}}]):
        fault = from_status(429, json.dumps(body))
        assert (fault.retry, fault.shared, fault.effect) == (True, False, "limited")
        assert fault.retry_after == (None if seconds is None else pytest.approx(seconds))
    # A header is exact.
    assert from_status(429, json.dumps({"error": {"message": words}}), 5.0).retry_after == 5.0


REJECTED = [
    (400, "temperature", "Unsupported value: 'temperature' does not support 0.7 with this model. Only the default (1) value is supported."),
    (400, "stop", "Unsupported parameter: 'stop' is not supported with this model."),
    (400, "temperature", "`temperature` is deprecated for this model."),
    (422, "seed", [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]),
    (403, "logprobs", "You are not allowed to request logprobs from this model."),
]  # fmt: skip


@pytest.mark.types("if the model does not take")
@pytest.mark.parametrize(("status", "field", "words"), REJECTED)
def test_a_model_that_rejects_a_field_names_the_line_to_write(
    status: int, field: str, words: Any
) -> None:
    def answer(asked: dict[str, Any]) -> Reply:
        if field in asked:
            return status, {}, json.dumps({"error": {"message": words}}).encode()
        return 200, {}, json.dumps(chat("4")).encode()

    with serving(answer) as url:
        with pytest.raises(ModelError) as error:
            ask(url, logprobs=field == "logprobs")
        typed = re.search(r"write models: \{NAME: \{\.\.\., (\w+): (\{\w+: null\}|false)\}\}", str(error.value))  # fmt: skip
        assert typed is not None
        value = False if typed[2] == "false" else {typed[2].strip("{}").split(":")[0]: None}
        (done,) = ask(url, **{typed[1]: value})
    assert done.text == "4"


@pytest.mark.types("if the server gives none for some tokens, set logprobs: false")
@pytest.mark.parametrize("value", [None, float("-inf"), -3.4028235e38, "x"])
def test_log_probabilities_of_some_tokens_only_are_not_paid_twice(value: Any) -> None:
    asked: list[Any] = []

    def answer(body: dict[str, Any]) -> Reply:
        asked.append(body)
        made = chat("4")
        made["choices"][0]["logprobs"] = {"content": [{"logprob": -0.5}, {"logprob": value}]}
        return 200, {}, json.dumps(made).encode()

    with serving(answer) as url:
        with pytest.raises(ModelError, match=r"not a number; .* set logprobs: false on the model"):
            ask(url, 3, logprobs=True, attempts=5)
        assert len(asked) == 3
        (done,) = ask(url, logprobs=False)
    assert done.text == "4"


@pytest.mark.parametrize("spelled", [KEY, quote(KEY, safe=""), quote(KEY), escape(f"{KEY}&")])
def test_a_key_is_redacted_as_an_address_or_a_page_writes_it(spelled: str) -> None:
    secret = Secret(f"{KEY}&" if "amp;" in spelled else KEY)
    assert secret.redacted(f"Bearer%20{spelled}") == "Bearer%20***"
    assert secret.redacted_bytes(spelled.encode()) == b"***"


@pytest.mark.parametrize(("status", "cost"), [(529, 12), (503, 12), (500, 12 + 1 + 64 + 8)])
def test_litellm_s_own_status_does_not_hide_the_provider_s(
    monkeypatch: pytest.MonkeyPatch, status: int, cost: float
) -> None:
    """An overloaded provider, 529 or 503, bills nothing; litellm raises both as 500."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    busy = {"type": "error", "error": {"type": "overloaded_error", "message": f"busy {KEY}"}}
    good = {"id": "m", "type": "message", "role": "assistant", "model": "claude", "stop_reason": "end_turn",
            "content": [{"type": "text", "text": "4"}], "usage": {"input_tokens": 9, "output_tokens": 3}}  # fmt: skip
    seen: list[Any] = []

    def answer(asked: dict[str, Any]) -> Reply:
        seen.append(asked)
        first = len(seen) == 1
        return (
            status if first else 200,
            {"retry-after": "0"},
            json.dumps(busy if first else good).encode(),
        )

    with serving(answer) as url:
        (done,) = ask(url, model="anthropic/claude-sonnet-4-5", price=PRICE)
    assert (done.text, len(seen)) == ("4", 2)
    assert done.usd == cost


def test_a_key_that_litellm_redacts_in_part_is_redacted() -> None:
    error = ValueError("litellm.AuthenticationError: invalid key REDACTED/abc+DEF==, check it")
    assert fault_of(error, 1.0, Secret(KEY)).detail == "AuthenticationError: invalid key ***, check it"  # fmt: skip
