"""Servers that accept one name of the limit field, models that reason up to the limit, and the remedies in errors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nfilter import Budget, Completion, ModelError, Price, Request, Site
from nfilter_litellm import backend as backends
from nfilter_litellm.backend import LiteLLMBackend
from nfilter_litellm.batches import BatchSettings
from nfilter_litellm.budgeted_transport import cost_of
from nfilter_litellm.config import LiteLLMConfig
from nfilter_litellm.failures import from_status
from nfilter_litellm.limit_field import rejects
from nfilter_litellm.protocol import read
from tests.model_server.batches import BatchScript
from tests.model_server.faults import Script
from tests.model_server.server import ModelServer

NEW, OLD = "max_completion_tokens", "max_tokens"
TRANSPORTS = ["aiohttp", "litellm"]
REMEDY = re.compile(r"models: \{NAME: \{\.\.\., (\w+): (\w+)\}\}")
RECIPE = """\
name: api
answer: exact
models:
  expert: {{use: litellm, model: thinker, api_base: "{url}", logprobs: false, concurrency: 4{more}}}
source: {{use: jsonl, path: rows.jsonl}}
samples:
  - {{use: robustft.answer, llm: expert, into: base, max_tokens: 16}}
  - {{use: robustft.check, views: [base]}}
arms: []
"""


def remedy_of(error: str) -> dict[str, str]:
    """Return the setting that an error names as the remedy."""
    match = REMEDY.search(error)
    assert match is not None, error
    return {match[1]: match[2]}


@pytest.fixture
def asked(requests: Callable[..., list[Request]]) -> Callable[[int], list[Request]]:
    return lambda n: requests(n, max_tokens=16)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_first_rejection_of_a_name_changes_it_for_all_calls(
    backend: Callable[..., Any], asked: Callable[[int], list[Request]], transport: str
) -> None:
    with ModelServer(Script(limit_as=NEW)) as server:
        model = backend(server.url, transport=transport, concurrency=1)
        assert all(done.failure is None for done in model.generate(asked(5)))
        assert server.plan.counts == {"no_max_tokens": 1, "ok": 5}
        assert [each.get(OLD) for each in server.asked] == [16, *[None] * 5]
        assert [each.get(NEW) for each in server.asked] == [None, *[16] * 5]


@pytest.mark.types("write limit_as on the model")
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(("taken", "set_to"), [(NEW, OLD), (OLD, NEW)])
def test_a_configured_name_is_kept_and_the_error_names_the_other(
    backend: Callable[..., Any], asked: Callable[[int], list[Request]], transport: str, taken: str, set_to: str
) -> None:  # fmt: skip
    with ModelServer(Script(limit_as=taken)) as server:
        model = backend(server.url, transport=transport, limit_as=set_to)
        with pytest.raises(ModelError, match=f"'{set_to}' is not supported") as error:
            model.generate(asked(30))
        assert set(server.plan.counts) == {f"no_{set_to}"}
        line = remedy_of(str(error.value))
        assert line == {"limit_as": taken}
        fixed = backend(server.url, transport=transport, **line)
        assert fixed.fingerprint() == model.fingerprint()  # paid answers remain valid
        assert all(done.failure is None for done in fixed.generate(asked(3)))


@pytest.mark.types("accepts neither max_tokens nor max_completion_tokens")
def test_a_server_that_accepts_neither_name_is_reported(
    backend: Callable[..., Any], asked: Callable[[int], list[Request]]
) -> None:
    with (
        ModelServer(Script(limit_as="n_predict")) as server,
        pytest.raises(ModelError, match="accepts neither max_tokens nor max_completion_tokens"),
    ):
        backend(server.url).generate(asked(3))
    with ModelServer(Script()) as another:
        assert all(done.failure is None for done in backend(another.url).generate(asked(3)))


def test_the_budget_is_the_same_under_either_name(asked: Callable[[int], list[Request]]) -> None:
    """The budget covers one call at a time; of its two attempts the rejected one costs nothing."""
    price = {"prompt": 0.0, "completion": 1e6}  # a dollar per token
    with ModelServer(Script(limit_as=NEW)) as server:
        config = LiteLLMConfig.model_validate(
            {"model": "m", "api_base": server.url, "price": price, "max_tokens": 4}
        )
        budget = Budget(9.0)
        model = LiteLLMBackend(config, Site(Path(), budget=budget))
        done = model.generate(asked(2))
        model.close()
    assert [one.usd for one in done] == [4.0, 4.0]
    assert budget.spent == 8.0


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (OLD, "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.", True),
        (NEW, "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.", False),
        (OLD, "max_tokens is not supported, use max_completion_tokens", True),
        (NEW, "Unrecognized request argument supplied: max_completion_tokens", True),
        (OLD, "max_tokens is too large: 9000. This model supports at most 4096 completion tokens", False),
        (OLD, "max_tokens must be at least 1, got -3", False),
        (OLD, "Unsupported value: 'temperature' does not support 0 with this model.", False),
    ],
)  # fmt: skip
def test_error_texts_that_reject_a_name(name: Any, text: str, expected: bool) -> None:
    assert rejects(from_status(400, json.dumps({"error": {"message": text}})), name) is expected


def test_a_validator_s_forbidden_field_is_a_rejected_name() -> None:
    extra = [{"type": "extra_forbidden", "loc": ["body", NEW], "msg": "Extra inputs are not permitted"}]  # fmt: skip
    fault = from_status(422, json.dumps({"detail": extra}))
    assert rejects(fault, NEW)
    assert not rejects(fault, OLD)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_reasoning_that_uses_all_tokens_ends_the_run_with_remedies(
    backend: Callable[..., Any], asked: Callable[[int], list[Request]], transport: str
) -> None:
    with ModelServer(Script(thinks=1000)) as server:
        model = backend(server.url, transport=transport, concurrency=2)
        with pytest.raises(ModelError, match="8 consecutive calls failed") as error:
            model.generate(asked(40))
        assert sum(server.plan.counts.values()) <= 8 + 2
        line = remedy_of(str(error.value))
        assert int(line["max_tokens"]) > 16
        assert "body: {reasoning_effort: low}" in str(error.value)
        for more in (line, {"max_tokens": 200, "body": {"reasoning_effort": "low"}}):
            done = backend(server.url, transport=transport, **more).generate(asked(3))
            assert all(one.failure is None and one.text and one.reasoning for one in done)


def test_reasoning_alone_is_a_failure_with_its_counts_once_the_model_has_answered(
    backend: Callable[..., Any], asked: Callable[[int], list[Request]]
) -> None:
    price = {"prompt": 0.0, "completion": 1e6}
    with ModelServer() as server:
        model = backend(server.url, price=price)
        model.generate(asked(1))
        server.plan.script = Script(thinks=1000)
        done = model.generate(asked(30)[1:])
    kinds = {one.failure.kind for one in done}
    assert kinds == {"too_long"}
    assert {(one.text, one.finish, one.usd, one.completion_tokens) for one in done} == {("", "failed", 16.0, 16)}  # fmt: skip
    assert all(one.reasoning and one.reasoning.startswith("so so") for one in done)


SILENT = [
    (Completion("", reasoning="hm"), "parse", "reasoned and gave no answer; write"),
    (Completion(" \n", reasoning="hm"), "parse", "reasoned and gave no answer; write"),
    (Completion("", "length", reasoning="hm"), "too_long", "before it was cut off at max_tokens"),
    (Completion("", "length"), "too_long", "gave no answer before it was cut off"),
]


@pytest.mark.parametrize(("reply", "kind", "text"), SILENT)
def test_replies_without_an_answer_fail_for_any_finish_reason(
    backend: Callable[..., Any],
    asked: Callable[[int], list[Request]],
    reply: Completion,
    kind: str,
    text: str,
) -> None:
    with ModelServer(Script(answer=lambda _: reply)) as server:
        (done,) = backend(server.url).generate(asked(1))
        assert done.failure is not None
        assert (done.failure.kind, done.finish) == (kind, "failed")
        assert text in done.failure.detail
        # At least three such replies and no answer end the run.
        with pytest.raises(ModelError, match="every call failed"):
            backend(server.url).generate(asked(3))


def test_hidden_reasoning_is_detected_by_its_token_count() -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 900, "completion_tokens_details": {"reasoning_tokens": 900}}  # fmt: skip
    choice = {"message": {"content": None}, "finish_reason": "stop"}
    done = read({"choices": [choice], "usage": usage}, logprobs=False, limit=1000)
    assert done.failure is not None
    assert remedy_of(done.failure.detail) == {"max_tokens": "4000"}


@pytest.fixture
def fast_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        backends, "BatchSettings", lambda: BatchSettings(first_delay=0.001, max_delay=0.01)
    )


@pytest.mark.usefixtures("fast_batches")
def test_a_batch_with_rejected_lines_is_rewritten_with_the_other_name(
    backend: Callable[..., Any], asked: Callable[[int], list[Request]]
) -> None:
    with ModelServer(Script(limit_as=NEW), batches=BatchScript()) as server:
        model = backend(server.url, batch=True)
        assert all(done.failure is None for done in model.generate(asked(5)))
        assert all(done.failure is None for done in model.generate(asked(9)[5:]))
        # The second set of calls starts with the accepted name.
        assert server.plan.counts == {"no_max_tokens": 5, "ok": 9}
        names = [
            {(line["custom_id"], line["body"].get(OLD), line["body"].get(NEW)) for line in map(json.loads, file.splitlines())}
            for name, file in server.batches.files.items()
            if name in {batch["input_file_id"] for batch in server.batches.made}
        ]  # fmt: skip
    assert [{each[1:] for each in some} for some in names] == [{(16, None)}, {(None, 16)}, {(None, 16)}]  # fmt: skip
    assert {each[0] for each in names[0]} == {each[0] for each in names[1]}


@pytest.mark.usefixtures("fast_batches")
def test_a_batch_with_a_configured_name_or_reasoning_alone_names_the_remedy(
    backend: Callable[..., Any], asked: Callable[[int], list[Request]]
) -> None:
    for script, settings in (
        (Script(limit_as=NEW), {"limit_as": OLD}),
        (Script(thinks=1000), {}),
        (Script(limit_as="n_predict"), {}),
    ):
        with ModelServer(script, batches=BatchScript()) as server:
            with pytest.raises(ModelError) as error:
                backend(server.url, batch=True, **settings).generate(asked(10))
            if script.limit_as == "n_predict":
                assert "accepts neither" in str(error.value)
                continue
            line = remedy_of(str(error.value))
            done = backend(server.url, batch=True, **line).generate(asked(10))
            assert all(one.failure is None for one in done)


def test_the_remedies_work_in_a_recipe(tmp_path: Path, command: Callable[..., Any]) -> None:
    rows = [{"prompt": f"question {n}", "response": "x"} for n in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    script = Script(thinks=1000, limit_as=NEW)
    more = f", limit_as: {OLD}"
    with ModelServer(script) as server:
        for expected in ("limit_as", "max_tokens"):
            (tmp_path / "r.yaml").write_text(RECIPE.format(url=server.url, more=more))
            done = command("run", "r.yaml", "--out", "out", cwd=tmp_path)
            assert done.returncode == 5, done.stderr
            ((name, value),) = remedy_of(" ".join(done.stderr.split())).items()
            assert name == expected
            more = more.replace(f", limit_as: {OLD}", "") + f", {name}: {value}"
        (tmp_path / "r.yaml").write_text(RECIPE.format(url=server.url, more=more))
        done = command("run", "r.yaml", "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("fast_batches")
def test_a_call_in_a_batch_has_the_same_id_under_either_name(
    backend: Callable[..., Any], asked: Callable[[int], list[Request]]
) -> None:
    """A submitted call is recognised after the name changed."""
    with ModelServer(batches=BatchScript()) as server:
        for name in (OLD, NEW):
            backend(server.url, batch=True, limit_as=name).generate(asked(3))
        files = [server.batches.files[batch["input_file_id"]] for batch in server.batches.made]
        lines = [[json.loads(line) for line in file.splitlines()] for file in files]
    first, second = ({line["custom_id"] for line in some} for some in lines)
    assert first == second
    assert [NEW in some[0]["body"] for some in lines] == [False, True]


@pytest.mark.usefixtures("fast_batches")
def test_a_batch_without_any_answer_is_not_repeated(
    backend: Callable[..., Any], asked: Callable[[int], list[Request]]
) -> None:
    with ModelServer(Script(thinks=1000, faults={"error": 0.2}), batches=BatchScript()) as server:
        with pytest.raises(ModelError, match="consecutive calls failed"):
            backend(server.url, batch=True).generate(asked(20))
        assert server.plan.counts["error"] > 0
        assert sum(server.plan.counts.values()) == 20


def test_uncounted_reasoning_costs_the_bound() -> None:
    price = Price(0.0, 1.0)
    silent = read({"choices": [{"message": {"content": "", "reasoning": "hm"}}], "usage": {"prompt_tokens": 5}}, logprobs=False)  # fmt: skip
    assert silent.failure is not None
    assert cost_of(silent, price, 16.0) == 16.0


@pytest.mark.usefixtures("fast_batches")
def test_a_batch_that_is_rejected_as_a_whole_names_the_remedy(
    backend: Callable[..., Any], asked: Callable[[int], list[Request]]
) -> None:
    text = "Unsupported parameter: 'max_tokens' is not supported with this model."
    wrong = {"status": "failed", "errors": {"data": [{"code": "invalid_request", "message": text}]}}
    with (
        ModelServer(batches=BatchScript(broken={"look": wrong})) as server,
        pytest.raises(ModelError, match="batch_1 failed") as error,
    ):
        backend(server.url, batch=True).generate(asked(2))
    assert remedy_of(str(error.value)) == {"limit_as": NEW}


@pytest.mark.types("or, if the server supports it, body: {reasoning_effort: low}")
def test_more_tokens_or_less_reasoning_yield_an_answer(
    backend: Callable[..., Any], requests: Callable[..., list[Request]]
) -> None:
    with ModelServer(Script(thinks=900)) as server:
        (done,) = backend(server.url).generate(requests(1, max_tokens=256))
        assert done.failure is not None
        line = remedy_of(done.failure.detail)
        for typed in (
            {"max_tokens": int(line["max_tokens"])},
            {"body": {"reasoning_effort": "low"}},
        ):
            (more,) = backend(server.url, **typed).generate(requests(1, max_tokens=256))
            assert more.failure is None
            assert more.text
