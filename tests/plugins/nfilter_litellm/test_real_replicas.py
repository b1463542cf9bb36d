"""Several real servers with one model, and the settings that name them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from nfilter import ModelError, Request, Site
from nfilter_litellm.backend import LiteLLMBackend
from nfilter_litellm.config import LiteLLMConfig
from tests.model_server.faults import Script
from tests.model_server.server import ModelServer


def test_calls_are_shared_by_real_servers_and_a_dead_one_costs_no_answer(
    backend: Callable[..., Any], requests: Callable[..., list[Request]]
) -> None:
    with ModelServer(Script(latency=0.002)) as one, ModelServer(Script(latency=0.002)) as two:
        both = backend(one.url, replicas=[two.url]).generate(requests(200))
    assert [each.failure for each in both] == [None] * 200
    shares = one.plan.counts["ok"], two.plan.counts["ok"]
    assert sum(shares) == 200
    assert min(shares) > 50
    with ModelServer() as one:
        dead = "http://127.0.0.1:9/v1"
        done = backend(one.url, replicas=[dead]).generate(requests(50))
    assert [each.text for each in done] == [each.text for each in both[:50]]


def test_a_server_that_is_up_again_is_asked_for_its_models(
    backend: Callable[..., Any],
) -> None:
    from nfilter_litellm.config import routes_of
    from nfilter_litellm.host_guard import HostGuard
    from nfilter_litellm.http import HttpTransport
    from nfilter_litellm.keys import from_environment
    from nfilter_litellm.provider_hosts import allowed_hosts_of

    async def alive(url: str) -> bool:
        config = LiteLLMConfig(model="m", api_base=url)
        (route,) = routes_of(config)
        guard = HostGuard(allowed_hosts_of(route, (), ()))
        transport = HttpTransport(route, config, from_environment(None), guard, logprobs=True)
        try:
            return await transport.answers()
        finally:
            await transport.close()

    with ModelServer() as server:  # it has no list of models, and says so
        assert asyncio.run(alive(server.url))
        assert "/v1/models" in server.paths
    assert not asyncio.run(alive("http://127.0.0.1:9/v1"))


def test_the_number_of_servers_changes_neither_the_model_nor_its_answers() -> None:
    one = {"model": "m", "api_base": "http://localhost:1/v1"}
    more = {**one, "replicas": ["http://localhost:2", "http://localhost:3/v1"]}
    marks = {
        LiteLLMBackend(LiteLLMConfig.model_validate(each), Site(Path())).fingerprint()
        for each in (one, more)
    }
    assert len(marks) == 1
    (fact,) = LiteLLMBackend.facts(LiteLLMConfig.model_validate(more), Site(Path()))
    assert "at http://localhost:1/v1 and 2 more servers" in fact


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "openai/m", "replicas": ["http://localhost:2"]}, "write the first address as api_base"),
        ({"api_base": "http://localhost:1", "replicas": ["localhost:2"]}, "replicas: api_base is an address such as"),
        ({"api_base": "http://localhost:1", "replicas": ["http://localhost:1/v1"]}, r"http://localhost:1/v1 is named twice"),
        ({"api_base": "http://localhost:1", "replicas": ["http://localhost:2"], "batch": True}, "cannot be combined with batch: true"),
        ({"api_base": "http://localhost:1", "replicas": ["http://localhost:2"], "transport": "litellm"}, "write transport: aiohttp"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_replicas_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LiteLLMConfig.model_validate({"model": "m", **settings})


def test_a_replica_at_another_host_has_to_be_allowed(
    backend: Callable[..., Any], requests: Callable[..., list[Request]]
) -> None:
    from nfilter.recipe.hosts import unlisted_hosts

    config = LiteLLMConfig(
        model="m", api_base="http://localhost:1", replicas=("http://gpu-2.example:8000",)
    )
    assert unlisted_hosts(LiteLLMBackend, config, ()) == ["gpu-2.example"]
    assert unlisted_hosts(LiteLLMBackend, config, ("gpu-2.example",)) == []
    with ModelServer() as server:
        model = backend(server.url, replicas=["http://gpu-2.example:8000"], concurrency=2)
        with pytest.raises(ModelError, match=r"gpu-2.example.*is not allowed"):
            model.generate(requests(9))
        model.close()


@pytest.mark.types(
    "correct its address or its key, or remove it from api_base and replicas, and run the same command again"
)
def test_one_wrong_server_ends_the_run_though_another_answers(
    backend: Callable[..., Any], requests: Callable[..., list[Request]]
) -> None:
    with ModelServer() as good, ModelServer(Script(key="another")) as wrong:
        model = backend(good.url, concurrency=2, replicas=[wrong.url])
        with pytest.raises(ModelError, match=f"one of several servers fails: 401 .*at {wrong.url}"):
            model.generate(requests(9))
        model.close()
        done = backend(good.url).generate(requests(9))
    assert [each.failure for each in done] == [None] * 9


@pytest.mark.types(
    "write the first address as api_base", "write transport: aiohttp, or remove replicas"
)
def test_the_settings_that_the_errors_name_are_valid() -> None:
    LiteLLMConfig.model_validate(
        {"model": "openai/m", "api_base": "http://localhost:1", "replicas": ["http://localhost:2"]}
    )
    wrong = {"model": "m", "api_base": "http://localhost:1", "transport": "litellm"}
    more = {"replicas": ["http://localhost:2"]}
    LiteLLMConfig.model_validate({**wrong, **more, "transport": "aiohttp"})
    LiteLLMConfig.model_validate(wrong)
