"""What calls cost, and a cap that no race exceeds: counted at the server, whatever the client believes."""

from __future__ import annotations

import json
from collections.abc import Callable
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
from nfilter.testing.faults import Script, completion
from nfilter.testing.server import ModelServer
from nfilter_litellm.backend import LiteLLMBackend
from nfilter_litellm.config import LiteLLMConfig
from nfilter_litellm.prices import price_of

PER_MILLION = {"prompt": 1000.0, "completion": 10000.0}
PRICE = Price(0.001, 0.01)
BILLED = ("ok", "truncated", "empty", "refusal", "filtered", "off_schema", "no_logprobs")
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


def billed(server: ModelServer) -> float:
    """What a provider would bill for all that the server answered with status 200."""
    total = 0.0
    for content, kinds in server.plan.served.items():
        for kind in kinds:
            if kind in BILLED:
                messages = [{"role": "user", "content": content}]
                usage = completion(server.plan.script, messages, {"max_tokens": 8}, kind)["usage"]
                total += PRICE.of(usage["prompt_tokens"], usage["completion_tokens"])
    return total


def backend(server: ModelServer, budget: Budget | None, **more: Any) -> LiteLLMBackend:
    config = LiteLLMConfig(model="test", api_base=server.url, price=PER_MILLION, **more)  # type: ignore[arg-type]
    return LiteLLMBackend(config, Site(Path(), budget=budget))


def spend(made: LiteLLMBackend, asked: list[Request]) -> tuple[list[Completion], bool]:
    """The answers that came, and whether the budget ended it."""
    answers = []
    try:
        for _, answer in made.stream(asked):
            answers.append(answer)
    except BudgetError:
        return answers, True
    finally:
        made.close()
    return answers, False


@pytest.mark.parametrize("seed", range(20))
def test_what_is_billed_stays_within_the_cap(seed: int) -> None:
    faults = {"error": 0.1, "truncated": 0.05, "empty": 0.05, "refusal": 0.05, "limited": 0.05}
    with ModelServer(Script(faults=faults, seed=seed, latency=0.002)) as server:
        budget = Budget(1.0 + seed / 4)
        answers, ended = spend(backend(server, budget, concurrency=64), requests(400))
        assert ended
        assert answers
        assert billed(server) <= budget.spent + 1e-9 <= budget.cap + 2e-9
        # Little is left lying about: less than what one call may cost at most.
        assert budget.cap - budget.spent < PRICE.of(100 + 64, 8)


def test_an_answer_has_its_cost_and_that_of_the_attempts_before_it() -> None:
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


def test_refusals_of_the_server_cost_nothing() -> None:
    with ModelServer(Script(faults={"error": 1.0})) as server:
        budget = Budget(1.0)
        made = backend(server, budget, attempts=2)
        with pytest.raises(ModelError, match="500"):
            spend(made, requests(5))
        assert budget.spent == 0


def test_prices_are_the_config_s_then_litellm_s_then_none() -> None:
    assert price_of(LiteLLMConfig(model="x", price=PER_MILLION)) == PRICE  # type: ignore[arg-type]
    listed = price_of(LiteLLMConfig(model="openai/gpt-4o-mini"))
    assert listed is not None
    assert 0 < listed.prompt < listed.completion < 1e-4
    assert price_of(LiteLLMConfig(model="nobody/knows-this")) is None


def test_a_run_ends_at_its_budget_and_goes_on_with_a_higher_one(
    tmp_path: Path, command: Callable[..., Any]
) -> None:
    rows = [{"id": str(n), "prompt": f"what is {n}", "response": str(n)} for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with ModelServer(Script()) as server:
        (tmp_path / "r.yaml").write_text(RECIPE.format(url=server.url, cap=1.5))
        done = command("run", "r.yaml", "--out", "out", cwd=tmp_path)
        assert done.returncode == 8, done.stderr
        assert "raise budget.usd and run the same command to go on" in done.stderr
        first = server.plan.report()["attempts"]
        assert 0 < first < 60
        done = command("run", "r.yaml", "--out", "out", "--set", "budget.usd=50", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert server.plan.report()["attempts"] == 60  # nothing was asked twice
        assert "dollars" in done.stdout
        usd = json.loads((tmp_path / "out" / "metrics.json").read_text())["usd"]
        assert usd == pytest.approx(billed(server))
        check = command("check", "r.yaml", "--set", "models.expert.price=null", cwd=tmp_path)
        assert check.returncode == 2
        assert "a budget needs a price" in check.stderr
        plan = command("plan", "r.yaml", cwd=tmp_path)
        assert "the budget of $1.5 is too small" in plan.stdout
