"""Hostile addresses and model names: nothing reaches a host that is not allowed, however a parser reads them.

Every lookup and every connection leads to one listener on this machine, whatever the port. The names of providers and of
this machine resolve to nothing. Anything that the listener receives has escaped.
"""

from __future__ import annotations

import _socket
import asyncio
import http.client
import re
import socket
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from nfilter import AllowedHosts, Message, ModelError, Request, Sampling, Site
from nfilter.recipe.hosts import unlisted_hosts
from nfilter_litellm import config as config_module
from nfilter_litellm.backend import LiteLLMBackend
from nfilter_litellm.config import LiteLLMConfig, route_of
from nfilter_litellm.dispatcher import Transport
from nfilter_litellm.failures import CallError
from nfilter_litellm.host_guard import HostGuard, current_guard, guard_thread, guarded, new_loop
from nfilter_litellm.http import HttpTransport
from nfilter_litellm.keys import Secret
from nfilter_litellm.provider_hosts import allowed_hosts_of
from nfilter_litellm.providers import LiteLLMTransport, library

KEY = "sk-canary-7e0c41d2b59a"
EVIL = "evil.example"
OWN = re.compile(
    r"api\.openai\.com|api\.anthropic\.com|generativelanguage\.googleapis\.com|api\.cohere\.(ai|com)|huggingface\.co"
    r"|router\.huggingface\.co|api\.replicate\.com|(bedrock-runtime|bedrock-agentcore|bedrock-agent-runtime|sts"
    r"|runtime\.sagemaker)\.us-east-1\.amazonaws\.com|api\.groq\.com|api\.mistral\.ai|openrouter\.ai|api\.together\.(xyz|ai)|localhost|127\.0\.0\.1"
)
ODD = (
    "\t\n\r\0\x0b\x0c\x1b\x1f\x7f\x85\xa0\xad\u034f\u1680\u2009\u200b\u200d\u200e\u2028\u202e\u2060\u2066\u3000\ufeff\U000e0001 \\"
    "\uff0f\uff1a\uff0e\uff20\uff03\uff1f\uff3c\u2024\u2044\u2100\u3002\uff61\u0430\u212a"
)  # fmt: skip


def addresses() -> list[str]:
    """Return values of ``api_base`` that try to reach EVIL."""
    made = [
        form.format(c=c, evil=EVIL)
        for c in ODD
        for form in (
            "http:{c}//{evil}/v1", "ht{c}tp://{evil}/v1", "http:/{c}/{evil}/v1", "http://localhost{c}.{evil}/v1",
            "http://api.openai.com{c}.{evil}/v1", "{c}http://{evil}/v1", "http://{evil}{c}@localhost/v1",
            "http://localhost:80{c}@{evil}/v1", "http://{evil}{c}/v1",
        )
    ]  # fmt: skip
    made += [
        f"http://{EVIL}", f"HTTP://{EVIL}/v1", f"https://{EVIL.upper()}/v1", f"http://{EVIL}./v1", f"//{EVIL}/v1",
        f"http:{EVIL}/v1", f"http:/{EVIL}/v1", f"http:///{EVIL}/v1", f"http:\\\\{EVIL}\\v1", f"ftp://{EVIL}/v1",
        f"http://localhost@{EVIL}/v1", f"http://user:pw@{EVIL}/v1", f"http://localhost:80@{EVIL}/v1", f"http://{EVIL}#@localhost/v1",
        f"http://{EVIL}?@localhost/v1", f"http://{EVIL}/v1#localhost", f"http://{EVIL}\\@localhost/v1", f"http://localhost%2e{EVIL}/v1",
        f"http://{EVIL}%2f@localhost/v1", "http://%65vil.example/v1", "http://evil%2eexample/v1", f"http://[{EVIL}]/v1",
        f"http://[::1]{EVIL}/v1", f"http://[::1]@{EVIL}/v1", "http://[2001:db8::1]/v1", "http://[::ffff:10.1.2.3]/v1",
        "http://[::ffff:a01:203]/v1", "http://[64:ff9b::a01:203]/v1", "http://[fe80::1%25eth0]/v1", "http://[2001:db8::1/v1",
        "http://10.1.2.3/v1", "http://167838211/v1", "http://0x0a010203/v1", "http://0xa.1.2.3/v1", "http://012.01.02.03/v1",
        "http://10.66051/v1", "http://10.1.515/v1", "http://1.1/v1", "http://169.254.169.254/v1", "http://10.1.2.3./v1",
        "http://xn--evl-hma.example/v1", "http://\u00e9vil.example/v1", f"http://localhost.{EVIL}/v1", f"http://127.0.0.1.{EVIL}/v1",
        f"http://api.openai.com.{EVIL}/v1", "http://evil.localhost/v1", "http://localhost.localdomain/v1", f"http://{EVIL}:80/v1",
        f"http://{EVIL}:0/v1", f"http://{EVIL}:99999/v1", f"http://{EVIL}:/v1", f"http://{EVIL}:8o/v1", f"http://{EVIL}/../v1",
        f"http://{EVIL}/v1/..//", f"http://localhost/..//{EVIL}/v1", f"http://{EVIL};@localhost/v1", f"http://{EVIL}&@localhost",
        f"http+unix://{EVIL}/v1", f"https:https://{EVIL}/v1", f"http://http://{EVIL}/v1", f"http://*.{EVIL}/v1", "http://evil..example/v1",
    ]  # fmt: skip
    return list(dict.fromkeys(made))


# Providers that build an address from a model's name are tried with all forms, the others with three.
PATHS = ("huggingface", "sagemaker", "replicate", "bedrock", "ollama")
OTHERS = (
    "anthropic", "gemini", "cohere", "cohere_chat", "groq", "mistral", "openrouter", "together_ai", "sagemaker_chat", "ollama_chat",
    "azure", "azure_ai", "databricks", "lm_studio", "xinference", "openai", "hosted_vllm", "triton", "watsonx",
)  # fmt: skip


def models() -> list[str]:
    """Return model names that contain a host or a path, for providers that insert them into an address."""
    forms = (
        "http://{evil}/x", "//{evil}/x", "x#@{evil}/", "https://{evil}", "../../{evil}", "..", "x?@{evil}/", "{evil}#", "\t//{evil}/x",
        "x\r\nHost: {evil}", "%2e%2e/%2f{evil}", "\\\\{evil}\\x", ":80@{evil}/x",
    )  # fmt: skip
    made = [f"{provider}/{form.format(evil=EVIL)}" for provider in PATHS for form in forms]
    made += [f"{provider}/{form.format(evil=EVIL)}" for provider in OTHERS for form in forms[:3]]
    for region in (
        f"{EVIL}#",
        f"{EVIL}/",
        f"{EVIL}?",
        f"a@{EVIL}#",
        f"x.{EVIL}/y",
        f"{EVIL}\\",
        f"{EVIL}:80/",
    ):
        arn = f"arn:aws:bedrock-agentcore:{region}:123456789012:runtime/x"
        made += [
            f"bedrock/agentcore/{arn}",
            f"bedrock/{arn}",
            f"sagemaker/{region}",
            f"bedrock/agent/{region}/X/Y",
        ]
    return made


class Listener:
    """A server that counts connections and stores what it receives."""

    def __init__(self) -> None:
        self.received = b""
        self.connections = 0
        self._server = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                one, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            with one:
                one.settimeout(0.5)
                try:
                    self.received += one.recv(2**16)
                except OSError:
                    continue

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    made = Listener()
    real = _socket.getaddrinfo

    def lookup(host: Any, port: Any, *args: Any, **kwargs: Any) -> list[Any]:
        name = host.decode() if isinstance(host, bytes) else host
        if name is None or OWN.fullmatch(name):
            raise socket.gaierror(socket.EAI_NONAME, "a provider's host, or this machine")
        return real("127.77.77.77", made.port, *args, **kwargs)

    def connect(self: socket.socket, address: Any) -> None:
        # The test redirects the connection; the audit hook must see the original address.
        sys.audit("socket.connect", self, address)
        if address[0] in ("127.0.0.1", "::1", "0.0.0.0"):
            raise ConnectionRefusedError("this machine")
        _socket.socket.connect(self, ("127.0.0.1", made.port))

    monkeypatch.setattr(_socket, "getaddrinfo", lookup)
    monkeypatch.setattr(socket.socket, "connect", connect)
    for name in (
        "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "COHERE_API_KEY", "HUGGINGFACE_API_KEY", "REPLICATE_API_KEY",
        "GROQ_API_KEY", "MISTRAL_API_KEY", "OPENROUTER_API_KEY", "TOGETHERAI_API_KEY", "AZURE_API_KEY", "AZURE_AI_API_KEY",
        "DATABRICKS_API_KEY", "WATSONX_APIKEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MY_KEY",
    ):  # fmt: skip
        monkeypatch.setenv(name, KEY)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://proxy.{EVIL}:3128")
        monkeypatch.setenv(name.lower(), f"http://proxy.{EVIL}:3128")
    for name in ("NO_PROXY", "no_proxy", "NFILTER_ALLOW_HOSTS"):
        monkeypatch.delenv(name, raising=False)
    yield made
    made.close()


ASKED = Request((Message("user", "a confidential row"),), Sampling(max_tokens=4))
Build = Callable[[LiteLLMConfig, HostGuard], Transport]


def aiohttp_transport(config: LiteLLMConfig, guard: HostGuard) -> Transport:
    return HttpTransport(route_of(config), config, Secret(KEY), guard, logprobs=False)


def litellm_transport(config: LiteLLMConfig, guard: HostGuard) -> Transport:
    return LiteLLMTransport(route_of(config), config, Secret(KEY), guard, logprobs=False)


def call_all(
    configs: list[LiteLLMConfig], build: Build, named: frozenset[str] = frozenset()
) -> int:
    """Call every model once, in loops guarded like an engine's; return the number of calls."""
    called = 0

    async def one(config: LiteLLMConfig, guard: HostGuard) -> None:
        with guarded(guard):
            try:
                made = build(config, guard)
            except ValueError:  # no address for yarl
                return
            try:
                await asyncio.wait_for(made.call(ASKED), 5)
            except (CallError, TimeoutError, AssertionError):
                pass
            finally:
                if isinstance(made, HttpTransport):
                    await made.close()

    for config in configs:
        try:
            guard = HostGuard(allowed_hosts_of(route_of(config), named, LiteLLMBackend.own_hosts))
        except ValueError:
            guard = HostGuard(AllowedHosts(named))
        loop = new_loop(guard)
        guard_thread(guard)
        try:
            loop.run_until_complete(one(config, guard))
            called += 1
        finally:
            guard_thread(None)
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()
    return called


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the checks of the config, so only the socket level protects."""
    for name in ("_check_address", "_check_model"):
        monkeypatch.setattr(config_module, name, lambda *_: None)


def configured(fields: dict[str, Any]) -> LiteLLMConfig | None:
    try:
        return LiteLLMConfig.model_validate({"attempts": 1, "timeout": 5, **fields})
    except ValidationError:
        return None


def test_ambiguous_addresses_are_refused() -> None:
    made = {text: configured({"model": "x", "api_base": text}) for text in addresses()}
    passed = {text: config for text, config in made.items() if config is not None}
    assert len(made) > 350
    assert 10 < len(passed) < 20
    # Accepted addresses name their host unambiguously for every parser.
    plain = re.compile(r"https?://([a-zA-Z0-9.-]+|\[[0-9a-f.:]+\])(:80)?(/v1|/v1/)?")
    assert all(plain.fullmatch(text) for text in passed)
    # And each host must be allowed.
    assert all(unlisted_hosts(LiteLLMBackend, config, ()) for config in passed.values())


def test_nothing_escapes_through_aiohttp(listener: Listener, unchecked: None) -> None:
    configs = [configured({"model": "x", "api_base": text}) for text in addresses()]
    every = [each for each in configs if each is not None]
    assert call_all(every, aiohttp_transport) == len(every) > 350
    assert (listener.connections, listener.received) == (0, b"")


def test_names_that_contain_an_address_are_refused() -> None:
    made = {name: configured({"model": name, "transport": "litellm"}) for name in models()}
    passed = {name for name, config in made.items() if config is not None}
    # Accepted names have single slashes; their connections are guarded at the socket level.
    assert all(re.fullmatch(r"[a-z_]+(/[A-Za-z0-9.:@-]+)+", name) for name in passed)
    assert not [name for name in passed if ".." in name.split("/")]
    assert len(passed) < len(made) / 5


@pytest.fixture
def no_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable litellm's failure reports, which take longer than the calls."""
    library()
    from litellm.litellm_core_utils.litellm_logging import Logging

    async def nothing(*_: object, **__: object) -> None: ...

    monkeypatch.setattr(Logging, "failure_handler", lambda *_, **__: None)
    monkeypatch.setattr(Logging, "async_failure_handler", nothing)


def test_nothing_escapes_through_litellm(
    listener: Listener, unchecked: None, no_reports: None
) -> None:
    plain = [text for text in addresses() if text.isascii() and text.isprintable()]
    written = [{"model": name} for name in models()]
    written += [{"model": "anthropic/claude-3-5-haiku-latest", "api_base": text} for text in plain]
    made = [configured({**fields, "transport": "litellm"}) for fields in written]
    every = [each for each in made if each is not None]
    assert call_all(every, litellm_transport) == len(every) > 200
    assert (listener.connections, listener.received) == (0, b"")


@pytest.mark.parametrize("build", [aiohttp_transport, litellm_transport])
@pytest.mark.parametrize("model", ["x", "anthropic/claude-3-5-haiku-latest"])
def test_an_allowed_host_is_reached(listener: Listener, build: Build, model: str) -> None:
    """The control for the tests above: the same calls with one allowed host."""
    transport = "aiohttp" if build is aiohttp_transport else "litellm"
    fields = {"model": model, "api_base": f"http://{EVIL}/v1", "transport": transport}
    config = LiteLLMConfig.model_validate({**fields, "attempts": 1, "timeout": 5})
    call_all([config], build)
    assert listener.connections == 0
    call_all([config], build, frozenset({EVIL}))
    assert listener.connections > 0
    assert KEY.encode() in listener.received


@pytest.mark.parametrize("transport", ["aiohttp", "litellm"])
def test_a_backend_names_the_option_that_allows_the_host(
    listener: Listener, transport: str
) -> None:
    fields = {"model": "x", "api_base": f"http://{EVIL}/v1", "transport": transport, "attempts": 1}
    config = LiteLLMConfig.model_validate({**fields, "api_key_env": "MY_KEY"})
    refused = LiteLLMBackend(config, Site(Path()))
    with pytest.raises(ModelError) as error:
        refused.generate([ASKED])
    refused.close()
    assert f"connects to the host '{EVIL}', which is not allowed" in str(error.value)
    assert f"nfilter run RECIPE --allow-host {EVIL}" in str(error.value)
    assert listener.connections == 0
    granted = LiteLLMBackend(config, Site(Path(), allow_hosts=frozenset({EVIL})))
    with pytest.raises(ModelError, match=r"connection|Connection|disconnected"):
        granted.generate([ASKED])
    granted.close()
    assert KEY.encode() in listener.received


def test_other_libraries_are_guarded_in_the_threads_of_a_call_only(
    listener: Listener,
) -> None:
    guard = HostGuard(AllowedHosts(frozenset({"fine.example"})))
    loop = new_loop(guard)

    async def in_thread(url: str) -> bytes:
        return await asyncio.get_running_loop().run_in_executor(None, fetched, url)

    async def in_context(url: str) -> bytes:
        with guarded(guard):
            return await asyncio.to_thread(fetched, url)

    def fetched(url: str) -> bytes:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=5) as reply:
            return bytes(reply.read())

    for way in (in_thread, in_context):
        for url in (f"http://{EVIL}/", "http://10.1.2.3/", "http://localhost.evil.example/"):
            with pytest.raises(OSError, match="no connection is allowed to"):
                loop.run_until_complete(way(url))
        assert listener.connections == 0
    with pytest.raises((OSError, http.client.HTTPException)):
        loop.run_until_complete(in_thread("http://fine.example/"))
    assert b"GET /" in listener.received
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    assert current_guard() is None
    with pytest.raises((OSError, http.client.HTTPException)):
        fetched(f"http://{EVIL}/")
    assert listener.connections == 2


@pytest.mark.parametrize(
    ("model", "host", "allowed"),
    [
        ("anthropic/claude-sonnet-4-5", "api.anthropic.com", True),
        ("claude-sonnet-4-5", "api.anthropic.com", True),
        ("anthropic/claude-sonnet-4-5", "api.openai.com", False),
        ("openai/gpt-5", "api.openai.com", True),
        ("bedrock/anthropic.claude-v2", "bedrock-runtime.us-east-1.amazonaws.com", True),
        ("bedrock/anthropic.claude-v2", "bedrock-runtime.us-gov-west-1.amazonaws.com", True),
        ("bedrock/anthropic.claude-v2", "bedrock-runtime.evil.example.amazonaws.com", False),
        ("bedrock/anthropic.claude-v2", "bucket.s3.amazonaws.com", False),
        ("vertex_ai/gemini-2.5-pro", "europe-west4-aiplatform.googleapis.com", True),
        ("vertex_ai/gemini-2.5-pro", "storage.googleapis.com", False),
        ("llamafile/x", "api.openai.com", False),
        ("ollama/x", "localhost", True),
        ("ollama/x", "evil.example", False),
    ],
)
def test_each_provider_has_its_own_hosts(model: str, host: str, allowed: bool) -> None:
    hosts = allowed_hosts_of(route_of(LiteLLMConfig(model=model)), (), LiteLLMBackend.own_hosts)
    assert (host in hosts) == allowed
