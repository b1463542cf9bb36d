"""Hostile replies: no key is exposed, every failure is typed, and no field redirects a call."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from nfilter import Completion, Price
from nfilter_litellm.budgeted_transport import cost_of
from nfilter_litellm.config import LiteLLMConfig
from nfilter_litellm.failures import CallError, retry_after_of
from nfilter_litellm.keys import REDACTED, Secret
from nfilter_litellm.protocol import read
from nfilter_litellm.providers import fault_of

KEY = "aB3/xyz+Q9/kkLm=="
PRICE = Price(prompt=1.0, completion=10.0)


def reply(**more: Any) -> dict[str, Any]:
    choice = {"message": {"content": "yes"}, "finish_reason": "stop", **more.pop("choice", {})}
    return {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 1}, **more}


@pytest.mark.parametrize(
    "spelling",
    [KEY, KEY.replace("/", "\\/"), KEY.replace("+", "\\u002B"), KEY.replace("/", "\\u002f").replace("=", "\\u003D")],
)  # fmt: skip
@pytest.mark.parametrize(
    "shape", ['{"error": {"message": "no such key: %s"}}', '{"%s": [1, {"a": "x%sy"}]}']
)
def test_a_key_is_redacted_in_every_json_spelling(shape: str, spelling: str) -> None:
    body = (shape % ((spelling,) * shape.count("%s"))).encode()
    clean = Secret(KEY).redacted_bytes(body)
    assert KEY not in json.dumps(json.loads(clean))
    assert REDACTED in clean.decode()


def test_a_reply_without_the_key_is_unchanged() -> None:
    body = b'{"text": "a\\/b \\u00e9 \\" \\\\", "n": [1.50, null]}'
    assert Secret(KEY).redacted_bytes(body) is body
    page = b"<p>it\\/is " + KEY.replace("/", "\\/").encode() + b"</p>"
    assert Secret(KEY).redacted_bytes(page) == b"<p>it\\/is ***</p>"
    assert Secret(None).redacted_bytes(body) is body


def test_a_key_across_the_truncation_of_a_message_is_redacted() -> None:
    for before in range(200, 320):
        error = ValueError("x" * before + " " + KEY * 3)
        assert "aB3/x" not in fault_of(error, 1.0, Secret(KEY * 3)).detail


HUGE = [
    ({"usage": {"prompt_tokens": 10**400, "completion_tokens": 2**63}}, False),
    ({"usage": {"prompt_tokens": float("inf"), "completion_tokens": True}}, False),
    ({"usage": [1, 2]}, False),
    ({"choice": {"logprobs": {"content": [{"logprob": -(10**400)}]}}}, True),
    ({"choice": {"logprobs": {"content": [{"logprob": float("nan")}]}}}, True),
    ({"choice": {"logprobs": {"content": {"a": 1}, "token_logprobs": 5}}}, True),
    ({"choice": {"message": {"content": [{"text": 5}, 7]}}}, False),
    ({"choice": {"message": {"content": "x", "provider_specific_fields": 5}}}, False),
    ({"choice": {"finish_reason": {"a": []}}}, False),
]


@pytest.mark.parametrize(("more", "logprobs"), HUGE)
def test_absurd_numbers_and_types_end_in_a_typed_failure(
    more: dict[str, Any], logprobs: bool
) -> None:
    try:
        done = read(reply(**more), logprobs=logprobs)
    except CallError as error:
        assert error.kind in {"parse", "server"}  # noqa: PT017 - either is fine, an answer too
    else:
        assert done.prompt_tokens < 2**53
        assert done.completion_tokens < 2**53


def test_an_unforeseen_exception_is_the_calls_failure() -> None:
    class Odd(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            raise OverflowError(key)

    with pytest.raises(CallError, match="parsing it raises OverflowError"):
        read(Odd(choices=1), logprobs=False)


def test_an_impossible_date_in_retry_after_is_ignored() -> None:
    far = {"Retry-After": "Fri, 31 Dec 1999 23:59:59 +99999999999999999999"}
    assert retry_after_of(far) is None


def test_an_answer_with_incomplete_counts_costs_the_bound() -> None:
    assert cost_of(Completion("yes", "stop", None, 3, 1), PRICE, 50.0) == PRICE.of(3, 1)
    assert cost_of(Completion("yes", "stop", None, 3, 0), PRICE, 50.0) == 50.0
    assert cost_of(Completion("yes", "stop", None, 0, 4), PRICE, 50.0) == 50.0


@pytest.mark.parametrize(
    "body",
    [
        {"max_tokens": None}, {"max_tokens": 8000}, {"max_completion_tokens": 1}, {"best_of": 8}, {"service_tier": "priority"},
        {"num_predict": 5},
    ],
)  # fmt: skip
@pytest.mark.types("set the limit with max_tokens on the model and its request field with limit_as")
@pytest.mark.parametrize("model", ["openai/x", "groq/x"])
def test_no_body_field_sets_the_cost_of_a_call(model: str, body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="set the limit with max_tokens on the model"):
        LiteLLMConfig(model=model, body=body)
    assert LiteLLMConfig(model=model, max_tokens=8000, limit_as="max_tokens").max_tokens == 8000


@pytest.mark.parametrize(
    "body",
    [
        {"fallbacks": ["deepseek/deepseek-chat"]}, {"context_window_fallback_dict": {}}, {"langfuse_host": "http://x"},
        {"custom_llm_provider": "x"}, {"model_list": []}, {"aws_sts_endpoint": "x"}, {"proxy_server_request": {}},
        {"whatever": 1},
    ],
)  # fmt: skip
def test_litellm_gets_no_field_that_it_interprets_itself(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="not a field that can be sent through litellm"):
        LiteLLMConfig(model="groq/x", body=body)
    # Another server receives it as a plain field of its request.
    LiteLLMConfig(model="openai/x", body=body)
    LiteLLMConfig(model="groq/x", body={"top_k": 1, "temperature": None, "thinking": {}})


def test_a_date_to_wait_for_is_compared_with_the_date_of_the_server() -> None:
    """The clock of this machine may be days behind or ahead."""
    sent = {"Date": "Tue, 01 Dec 2020 10:00:00 GMT", "Retry-After": "Tue, 01 Dec 2020 10:00:30 GMT"}
    assert retry_after_of(sent) == 30.0
    assert retry_after_of({**sent, "Date": "Tue, 01 Dec 2020 10:01:00 GMT"}) == 0.0
    assert retry_after_of({**sent, "Date": "not a date"}) == 0.0
