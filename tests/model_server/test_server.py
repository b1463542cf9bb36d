"""The faulty server: seeded, the same whatever the order, its counts, its phases, and what each kind looks like."""

from __future__ import annotations

import json
import random
import urllib.error
import urllib.request
from collections import Counter
from typing import Any

import pytest

from tests.model_server.faults import KINDS, Phase, Plan, Script, answer
from tests.model_server.server import ModelProcess, ModelServer

MIX = {"error": 0.2, "limited": 0.1, "refusal": 0.1, "overflow": 0.05}


def ask(url: str, text: str, **fields: Any) -> tuple[int, Any, dict[str, str]]:
    body = {"model": "m", "messages": [{"role": "user", "content": text}], **fields}
    request = urllib.request.Request(
        f"{url}/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "Authorization": "Bearer k"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.status, json.load(reply), dict(reply.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error), dict(error.headers)


def test_the_same_seed_gives_the_same_faults_in_whatever_order_calls_come() -> None:
    calls = [f"q{n}" for n in range(300)] * 3
    found = []
    for order in range(3):
        random.Random(order).shuffle(calls)
        plan = Plan(Script(seed=7, faults=MIX))
        for content in calls:
            plan.decide(content, 0.0)
        found.append(plan.served)
    assert found[0] == found[1] == found[2]
    other = Plan(Script(seed=8, faults=MIX))
    for content in calls:
        other.decide(content, 0.0)
    assert other.served != found[0]


def test_shares_are_what_is_met_and_lasting_faults_last() -> None:
    plan = Plan(Script(faults=MIX))
    for n in range(20_000):
        plan.decide(f"q{n}", 0.0)
    assert {kind: plan.counts[kind] / 20_000 for kind in MIX} == pytest.approx(MIX, abs=0.01)
    again = Counter(plan.decide(f"q{n}", 0.0) for n in range(20_000))
    for content, kinds in plan.served.items():
        assert len(kinds) == 2
        for kind in ("refusal", "overflow"):
            assert (kinds[0] == kind) == (kinds[1] == kind), content
    assert again["refusal"] == plan.counts["refusal"] / 2
    assert any(kinds == ["error", "ok"] for kinds in plan.served.values())


def test_phases_go_by_the_scripts_own_seconds() -> None:
    plan = Plan(Script(scale=0.1, phases=[Phase(10, 20, "limited")]))
    kinds = [plan.decide("q", 5.0 + t / 10) for t in (0, 9.9, 10, 19.9, 20)]
    assert kinds == ["ok", "ok", "limited", "limited", "ok"]


def test_phases_go_by_calls_if_the_script_says_so() -> None:
    plan = Plan(Script(by_calls=True, phases=[Phase(2, 4, "limited")]))
    kinds = [plan.decide("q", time) for time in (0.0, 50.0, 50.0, 50.0, 50.0)]
    assert kinds == ["ok", "ok", "limited", "limited", "ok"]
    assert [kind for kind, _ in plan.decided] == kinds


def test_a_script_is_checked() -> None:
    with pytest.raises(ValueError, match="no fault 'eror'"):
        Script(faults={"eror": 0.1})
    with pytest.raises(ValueError, match="more than 1 together"):
        Script(faults={"error": 0.6, "reset": 0.6})


def test_it_speaks_the_protocol() -> None:
    with ModelServer() as server:
        status, body, _ = ask(server.url, "hello there", logprobs=True, max_tokens=2)
        assert status == 200
        text = " ".join(answer([{"role": "user", "content": "hello there"}]).split()[:2])
        (choice,) = body["choices"]
        assert choice["message"]["content"] == text
        assert choice["finish_reason"] == "length"
        assert [token["token"] for token in choice["logprobs"]["content"]] == text.split()
        assert all(-1 < token["logprob"] <= 0 for token in choice["logprobs"]["content"])
        assert body["usage"] == {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4}
        assert "logprobs" not in ask(server.url, "x")[1]["choices"][0]
        assert server.keys == {"k"}
        assert server.asked[0]["max_tokens"] == 2
        report = server.plan.report()
    assert report == {"counts": {"ok": 2}, "attempts": 2, "conversations": 2, "most_in_flight": 1}


STATUS = {
    "limited": 429, "limited_after": 429, "no_quota": 429, "error": 500, "unavailable": 503, "unauthorized": 401,
    "forbidden": 403, "unknown_model": 404, "overflow": 400, "overflow_vllm": 400, "overflow_llama": 400,
}  # fmt: skip


@pytest.mark.parametrize("kind", STATUS)
def test_refusals_have_their_status_and_form(kind: str) -> None:
    assert kind in KINDS
    with ModelServer(Script(faults={kind: 1.0}, retry_after=2.0)) as server:
        status, body, headers = ask(server.url, "x")
    assert status == STATUS[kind]
    assert (headers.get("Retry-After") == "2") == (kind == "limited_after")
    error = body if kind == "overflow_vllm" else body["error"]
    assert error["message"]
    if kind == "no_quota":
        assert error["code"] == "insufficient_quota"


def test_only_the_right_key_is_let_in_and_more_than_the_capacity_is_not() -> None:
    with ModelServer(Script(key="other")) as server:
        assert ask(server.url, "x")[0] == 401
        assert server.plan.counts == {"unauthorized": 1}
    with ModelServer(Script(capacity=0)) as server:
        assert ask(server.url, "x")[0] == 429


def test_it_runs_in_a_process_of_its_own() -> None:
    with ModelProcess(faults={"empty": 1.0}, seed=3) as server:
        assert ask(server.url, "x")[1]["choices"][0]["message"]["content"] == ""
        assert server.report()["counts"] == {"empty": 1}
