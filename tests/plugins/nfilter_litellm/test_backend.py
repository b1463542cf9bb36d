"""Settings of an API model, the choice of the transport, and problems that check finds without a call."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from nfilter import Generates, ModelError, OpenStreams, RecipeError, Request, Site, Streams
from nfilter.recipe.model import load as load_recipe
from nfilter.registry.loading import load as load_plugins
from nfilter.testing import check_backend
from nfilter_litellm.backend import LiteLLMBackend
from nfilter_litellm.config import LiteLLMConfig, route_of
from nfilter_litellm.failures import from_status, one_line, parse_error_body, retry_after_of
from nfilter_litellm.protocol import read
from nfilter_litellm.providers import library, missing_keys
from nfilter_robustft.answer import AnswerConfig
from nfilter_robustft.select import SelectConfig
from tests.model_server.faults import Script
from tests.model_server.server import ModelServer

ROOT = Path(__file__).resolve().parents[3]
SITE = Site(Path())
LOCAL = "http://localhost:8000/v1"


def config(**settings: Any) -> LiteLLMConfig:
    return LiteLLMConfig.model_validate(settings)


@pytest.mark.parametrize(
    ("settings", "transport", "name", "base", "key"),
    [
        ({"model": "openai/gpt-4o-mini"}, "aiohttp", "gpt-4o-mini", "https://api.openai.com/v1", "OPENAI_API_KEY"),
        ({"model": "Qwen/Qwen3-8B", "api_base": LOCAL}, "aiohttp", "Qwen/Qwen3-8B", LOCAL, None),
        ({"model": "openai/x", "api_base": LOCAL, "api_key_env": "K"}, "aiohttp", "x", LOCAL, "K"),
        ({"model": "hosted_vllm/x", "api_base": LOCAL}, "aiohttp", "x", LOCAL, None),
        ({"model": "lm_studio/qwen/qwen3-8b", "api_base": LOCAL}, "aiohttp", "qwen/qwen3-8b", LOCAL, None),
        ({"model": "xinference/x", "api_base": LOCAL, "transport": "litellm"}, "litellm", "openai/x", LOCAL, None),
        ({"model": "llamafile/x", "api_base": LOCAL}, "aiohttp", "x", LOCAL, None),
        ({"model": "x", "api_base": "http://localhost:8000"}, "aiohttp", "x", LOCAL, None),
        ({"model": "x", "api_base": LOCAL + "/chat/completions/"}, "aiohttp", "x", LOCAL, None),
        ({"model": "x", "api_base": "https://host/openai/v2/"}, "aiohttp", "x", "https://host/openai/v2", None),
        ({"model": "anthropic/claude"}, "litellm", "anthropic/claude", None, None),
        ({"model": "ollama/llama", "api_base": "http://localhost:11434/"}, "litellm", "ollama/llama", "http://localhost:11434/v1", None),
        ({"model": "x", "api_base": LOCAL, "transport": "litellm"}, "litellm", "openai/x", LOCAL, None),
        ({"model": "openai/x", "transport": "litellm"}, "litellm", "openai/x", None, None),
        ({"model": "groq/x"}, "litellm", "groq/x", None, None),
    ],
)  # fmt: skip
def test_the_transport_name_address_and_key_follow_from_the_config(
    settings: dict[str, Any], transport: str, name: str, base: str | None, key: str | None
) -> None:
    route = route_of(config(**settings))
    assert (route.transport, route.name, route.base, route.key_env) == (transport, name, base, key)
    (fact,) = LiteLLMBackend.facts(config(**settings, logprobs=True), SITE)
    assert f"{name} over {transport} (" in fact
    assert base is None or base in fact
    theirs = transport == "litellm" and base is None
    assert ("at its provider's address; its provider's key from the environment" in fact) == theirs


NO_ADDRESS = (
    "lm_studio", "xinference", "hosted_vllm", "vllm", "litellm_proxy", "oobabooga", "openai_like", "custom_openai",
    "aiohttp_openai", "custom", "triton",
)  # fmt: skip


@pytest.mark.types("add the address of your server")
@pytest.mark.parametrize("provider", NO_ADDRESS)
def test_a_self_hosted_server_needs_an_address_and_the_remedy_works(provider: str) -> None:
    with pytest.raises(ValidationError, match="has no default address") as error:
        config(model=f"{provider}/x")
    suggested = re.search(r"api_base: (http://localhost:\d+/v\d)", str(error.value))
    assert suggested is not None
    route = route_of(config(model=f"{provider}/x", api_base=suggested[1]))
    assert route.base == suggested[1]
    assert route.name == ("triton/x" if provider == "triton" else "x")


def test_no_provider_falls_back_to_openai(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.endswith(("_API_BASE", "_BASE_URL"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    lookups: list[str] = []

    async def no_address(_loop: object, host: str, *_: object, **__: object) -> None:
        lookups.append(host)
        raise socket.gaierror("no network in this test")

    def no_address_at_once(host: str, *_: object, **__: object) -> None:
        lookups.append(host)
        raise socket.gaierror("no network in this test")

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", no_address)
    monkeypatch.setattr(socket, "getaddrinfo", no_address_at_once)
    litellm = library()
    names = _accepted_without_an_address(litellm)
    ends = asyncio.run(_ask_all(litellm, names))
    assert len(ends) == len(names) > 1
    assert lookups
    assert "api.openai.com" not in lookups


def _accepted_without_an_address(litellm: Any) -> list[str]:
    """Return the providers of litellm's OpenAI client without an address that the config accepts."""
    # Two of them open a browser to log in.
    names = {*litellm.openai_compatible_providers, *NO_ADDRESS, "ai21"} - {"chatgpt", "github_copilot", "ragflow"}  # fmt: skip
    accepted = []
    for name in sorted(names):
        try:
            made = config(model=f"{name}/x")
        except ValidationError:
            continue
        unknown = any(text.startswith("model ") for text in LiteLLMBackend.problems(made, SITE))
        if not unknown and litellm.get_llm_provider(made.model)[3] is None:
            accepted.append(name)
    return accepted


async def _ask_all(litellm: Any, names: Sequence[str]) -> list[BaseException]:
    ends = []
    for name in names:
        asked = {"messages": [{"role": "user", "content": "x"}], "api_key": "none", "max_retries": 0, "num_retries": 0}  # fmt: skip
        try:
            await litellm.acompletion(model=f"{name}/x", timeout=5, **asked)
        except Exception as error:  # noqa: BLE001 (every provider brings its own)
            ends.append(error)
    return ends


SECRET = "sk-canary-4f1d9a77c2e84b"


@pytest.mark.types("put a key into the environment variable that api_key_env names")
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"api_key_env": SECRET}, "the name of an environment variable"),
        ({"api_base": f"http://user:{SECRET}@host/v1"}, "put a key into the environment variable"),
        ({"api_base": f"http://host/v1?key={SECRET}"}, "put a key into the environment variable"),
        ({"api_base": f"file:///{SECRET}"}, "an address such as"),
        ({"api_base": f"http://[{SECRET}"}, "an address such as"),
        ({"body": {"api_key": SECRET}}, "cannot be set here"),
    ],
)
def test_a_key_in_the_wrong_place_is_refused_and_not_shown(
    settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValidationError, match=words):
        config(model="x", **settings)
    source = {"use": "jsonl", "path": "rows.jsonl"}
    models = {"expert": {"use": "litellm", "model": "x", **settings}}
    recipe = {"answer": "number", "models": models, "source": source}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(RecipeError, match=words) as error:
        load_recipe(tmp_path / "r.yaml", load_plugins(block=()), ())
    assert SECRET not in str(error.value)
    assert config(model="x", api_base=LOCAL, api_key_env="MY_KEY").api_key_env == "MY_KEY"


@pytest.mark.types("because a recipe contains no keys; name the environment variable with the key")
@pytest.mark.parametrize("name", ["Authorization", "x-api-key", "api_key", "access_token", "key"])
def test_a_header_with_a_key_is_no_field_of_a_request(name: str) -> None:
    with pytest.raises(ValidationError, match="cannot be set here") as error:
        config(model="x", api_base=LOCAL, body={name: "Bearer x"})
    typed = re.search(r"(api_key_env): (MY_KEY)", str(error.value))
    assert typed is not None
    assert config(model="x", api_base=LOCAL, **{typed[1]: typed[2]}).api_key_env == "MY_KEY"
    config(model="x", api_base=LOCAL, body={"stop_token_ids": [1], "skip_special_tokens": True})


@pytest.mark.types("is not set; type: export")
def test_a_missing_variable_is_reported_with_the_command_to_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    text = (
        "the environment variable OPENAI_API_KEY is not set; type: export OPENAI_API_KEY=YOUR-KEY"
    )
    assert list(LiteLLMBackend.problems(config(model="openai/x"), SITE)) == [text]
    with pytest.raises(ModelError, match="OPENAI_API_KEY is not set"):
        LiteLLMBackend(config(model="openai/x"), SITE)
    monkeypatch.setenv("OPENAI_API_KEY", "line\nbreak")
    with pytest.raises(ModelError, match="contains characters that a key cannot contain"):
        LiteLLMBackend(config(model="openai/x"), SITE)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    assert list(LiteLLMBackend.problems(config(model="openai/x"), SITE)) == []
    assert list(LiteLLMBackend.problems(config(model="x", api_base=LOCAL), SITE)) == []
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    assert "ANTHROPIC_API_KEY" in next(iter(LiteLLMBackend.problems(config(model="anthropic/claude-3-5-haiku-latest"), SITE)))  # fmt: skip
    (unknown,) = LiteLLMBackend.problems(config(model="nowhere/x"), SITE)
    assert "nowhere/x" in unknown


def test_abilities_are_known_without_a_connection() -> None:
    able = check_backend(LiteLLMBackend, config(model="x", api_base=LOCAL))
    assert able.capabilities == {Generates, Streams, OpenStreams}
    assert able.logprobs
    assert not LiteLLMBackend.abilities(config(model="x", api_base=LOCAL, logprobs=False)).logprobs
    # litellm's tables decide for other providers.
    assert not LiteLLMBackend.abilities(config(model="anthropic/claude-3-5-haiku-latest")).logprobs


def test_the_fingerprint_covers_the_settings_that_determine_an_answer() -> None:
    def of(**settings: Any) -> str:
        return LiteLLMBackend(config(**{"model": "x", "api_base": LOCAL, **settings}), SITE).fingerprint()  # fmt: skip

    os.environ["SOME_KEY"] = "value-of-the-key"
    try:
        same = [{}, {"timeout": 5}, {"concurrency": 3}, {"attempts": 2}, {"api_key_env": "SOME_KEY"}, {"logprobs": True}]  # fmt: skip
        assert len({of(**settings) for settings in same}) == 1
    finally:
        del os.environ["SOME_KEY"]
    other = [{}, {"model": "y"}, {"api_base": "http://other/v1"}, {"revision": "2"}, {"max_tokens": 5}, {"body": {"top_k": 1}}, {"logprobs": False}]  # fmt: skip
    assert len({of(**settings) for settings in other}) == len(other)


def test_nothing_heavy_is_imported_and_nothing_is_started() -> None:
    program = (
        "import sys, threading\n"
        "from pathlib import Path\n"
        "from nfilter import Site\n"
        "from nfilter_litellm.backend import LiteLLMBackend as B\n"
        f"c = B.Config(model='x', api_base='{LOCAL}')\n"
        "b = B(c, Site(Path()))\n"
        "list(B.problems(c, Site(Path()))), list(B.facts(c, Site(Path()))), B.abilities(c), b.fingerprint(), b.close()\n"
        "heavy = {'aiohttp', 'litellm', 'openai', 'httpx', 'asyncio.base_events'} & set(sys.modules) - {'asyncio.base_events'}\n"
        "assert not heavy, heavy\n"
        "assert threading.active_count() == 1\n"
        "assert b.generate([]) == []\n"
        "assert threading.active_count() == 1\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "plugins")))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], env=env, capture_output=True, text=True, check=False, timeout=60
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_retry_after_formats() -> None:
    now = datetime(2025, 1, 1, 12, 0, 0, tzinfo=UTC)
    assert retry_after_of({"Retry-After": "7"}) == 7
    assert retry_after_of({"Retry-After": "Wed, 01 Jan 2025 12:00:30 GMT"}, now) == 30
    assert retry_after_of({"Retry-After": "Wed, 01 Jan 2025 11:00:00 GMT"}, now) == 0
    assert retry_after_of({"Retry-After": "30", "retry-after-ms": "250"}) == 0.25
    for text in ("soon", "-5", "nan", "inf", "1e99", ""):
        assert retry_after_of({"Retry-After": text}) is None
    assert retry_after_of({}) is None


@pytest.mark.parametrize(
    ("status", "body", "kind", "retry", "shared"),
    [
        (400, '{"error": {"code": 400, "message": "the request exceeds the available context size", "type": "exceed_context_size_error"}}', "too_long", False, False),
        (400, '{"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 210000 tokens > 200000 maximum"}}', "too_long", False, False),
        (400, '{"error": {"code": "content_filter", "message": "The response was filtered due to the prompt triggering content management policy."}}', "refused", False, False),
        (400, '{"error": {"message": "Unsupported parameter: logprobs", "code": "unsupported_parameter"}}', "server", False, True),
        (413, "Request Entity Too Large", "too_long", False, False),
        (422, '{"detail": [{"loc": ["body"], "msg": "field required"}]}', "server", False, True),
        (402, '{"error": {"message": "Insufficient credits"}}', "server", False, True),
        (429, '{"error": {"message": "Your credit balance is too low"}}', "server", False, True),
        (429, "slow down", "server", True, False),
        (504, "", "timeout", True, False),
        (529, '{"error": {"type": "overloaded_error", "message": "Overloaded"}}', "server", True, False),
        (404, '{"detail": "Not Found"}', "server", False, True),
    ],
)  # fmt: skip
def test_statuses_and_bodies_of_other_servers(
    status: int, body: str, kind: str, retry: bool, shared: bool
) -> None:
    fault = from_status(status, body)
    assert (fault.kind, fault.retry, fault.shared) == (kind, retry, shared)
    assert str(status) in fault.detail


def test_an_error_is_shown_on_one_line_of_bounded_length() -> None:
    assert parse_error_body("[" * 100_000)[0].startswith("[[[")
    message, code = parse_error_body(
        '{"error": {"message": "a\\n\\u001b[31mb", "code": null, "type": "t"}}'
    )
    assert (message, code) == ("a [31mb", "t")
    assert len(one_line("word " * 1000)) == 300


@pytest.mark.parametrize(
    ("content", "logprobs", "text", "values"),
    [
        ([{"type": "text", "text": "4"}, {"type": "text", "text": "2"}], {"content": [{"logprob": -1.0}, {"logprob": -9999.0}]}, "42", (-1.0, -9999.0)),
        ("42", {"tokens": ["4", "2"], "token_logprobs": [-0.5, 1e-9]}, "42", (-0.5, 0.0)),
    ],
)  # fmt: skip
def test_reply_formats(content: Any, logprobs: Any, text: str, values: tuple[float, ...]) -> None:
    choice = {"message": {"content": content}, "logprobs": logprobs, "finish_reason": "eos"}
    done = read({"choices": [choice], "usage": None}, logprobs=True)
    assert (done.text, done.logprobs, done.finish) == (text, values, "stop")


def test_reasoning_up_to_the_limit_is_a_failure_with_its_counts() -> None:
    choice = {"message": {"content": None}, "finish_reason": "length"}
    done = read({"choices": [choice], "usage": {"completion_tokens": 9}}, logprobs=False)
    assert (done.text, done.finish, done.completion_tokens) == ("", "failed", 9)
    assert done.failure is not None
    assert done.failure.kind == "too_long"


def test_an_empty_list_of_requests_makes_no_call(requests: Callable[..., list[Request]]) -> None:
    model = LiteLLMBackend(config(model="x", api_base=LOCAL), SITE)
    assert model.generate(requests(0)) == []
    model.close()


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_separate_reasoning_is_not_part_of_the_answer(name: str) -> None:
    message = {"content": "4", name: "is it 5? no"}
    done = read({"choices": [{"message": message, "finish_reason": "stop"}]}, logprobs=False)
    assert (done.text, done.reasoning) == ("4", "is it 5? no")
    plain = read({"choices": [{"message": {"content": "4", name: [1]}}]}, logprobs=False)
    assert (plain.text, plain.reasoning) == ("4", None)


@pytest.mark.types("litellm has no address for it; write ai21_chat/")
def test_a_provider_without_an_address_names_the_one_to_write() -> None:
    with pytest.raises(ValueError, match="write ai21_chat/jamba-large") as error:
        missing_keys("ai21/jamba-large")
    assert missing_keys(str(error.value).split("write ")[1]) == ["AI21_API_KEY"]


@pytest.mark.types("Set logprobs: false on the model, and rank by a model that returns them")
def test_a_server_that_ignores_logprobs_is_reported_with_remedies(
    backend: Callable[..., Any], requests: Callable[..., list[Any]]
) -> None:
    with ModelServer(Script(logprobs=False)) as server:
        asked = requests(3, logprobs=True)
        with pytest.raises(
            ModelError,
            match=r"Set logprobs: false on the model, and rank by .*samples: 5, temperature: 0\.7",
        ):
            backend(server.url).generate(asked)
        plain = backend(server.url, logprobs=False).generate(asked)
        assert all(done.failure is None for done in plain)
    ask = AnswerConfig(llm="m", into="draws", samples=5, temperature=0.7)
    assert SelectConfig(by=ask.into, rank="agreement").rank == "agreement"


@pytest.mark.types("redirects are not followed; set api_base to the final address")
def test_a_redirect_is_refused_and_the_final_address_works(
    backend: Callable[..., Any], requests: Callable[..., list[Any]]
) -> None:
    with ModelServer(Script(faults={"redirect": 1.0})) as server, ModelServer() as final:
        with pytest.raises(ModelError, match="set api_base to the final address"):
            backend(server.url).generate(requests(3))
        assert all(done.failure is None for done in backend(final.url).generate(requests(3)))
