"""Configuration of an API model, and the rule that selects its transport and address."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from nfilter import StageConfig, odd_name, parse_address
from nfilter_litellm.servers import PREFIXES, address_needed

OPENAI = "https://api.openai.com/v1"
OWN_PROTOCOL = frozenset(
    {
        "anthropic", "azure", "azure_ai", "bedrock", "cohere", "cohere_chat", "databricks", "gemini", "huggingface",
        "ollama", "ollama_chat", "oci", "petals", "predibase", "replicate", "sagemaker", "sagemaker_chat", "snowflake",
        "triton", "vertex_ai", "watsonx",
    }
)  # fmt: skip
"""Providers with a protocol other than OpenAI's, even with an ``api_base``."""

_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# litellm inserts a model's name into addresses.
_MODEL = re.compile(r"(?!.*(?:^|/)\.{1,2}(?:/|$))[A-Za-z0-9_.@:+-]+(?:/[A-Za-z0-9_.@:+-]+)*")
_RESERVED = frozenset(
    {
        "model", "messages", "stream", "n", "logprobs", "api_key", "api_base", "base_url", "headers", "extra_headers",
        "extra_body", "callbacks", "mock_response",
    }
)  # fmt: skip
# Names of headers, which are no fields of a request; the lock of a run would have their values.
_KEYS = re.compile(
    r"(proxy.)?authorization|(x.)?(goog.)?api.?key|key|.*(access|auth|bearer|id).?token|token|secret|password|cookie",
    re.IGNORECASE,
)
# The budget reserves the cost bound of each attempt, so no other field may set the length or the price.
_COST_FIELDS = frozenset(
    {
        "max_tokens", "max_completion_tokens", "max_new_tokens", "max_output_tokens", "num_predict", "n_predict", "best_of",
        "service_tier",
    }
)  # fmt: skip
# litellm interprets hundreds of other fields itself, including models, addresses, keys and loggers.
_LITELLM_FIELDS = frozenset(
    {
        "chat_template_kwargs", "enable_thinking", "frequency_penalty", "keep_alive", "logit_bias", "min_p", "num_ctx",
        "presence_penalty", "reasoning_effort", "repetition_penalty", "response_format", "safety_settings", "seed", "stop",
        "temperature", "think", "thinking", "top_a", "top_k", "top_logprobs", "top_p", "typical_p", "user", "verbosity",
    }
)  # fmt: skip


class PriceConfig(StageConfig):
    """Price in dollars per million prompt tokens and per million generated tokens."""

    prompt: float = Field(
        ge=0, allow_inf_nan=False, description="US dollars per million prompt tokens."
    )
    completion: float = Field(
        ge=0, allow_inf_nan=False, description="US dollars per million generated tokens."
    )


class LiteLLMConfig(StageConfig):
    """Settings of an API model.

    ``model`` is litellm's ``provider/name``, or with ``api_base`` the server's name of the model. ``api_key_env`` names
    the environment variable with the key. ``concurrency`` fixes the number of parallel calls, which is otherwise adaptive.
    ``timeout`` is in seconds per attempt; ``attempts`` is the maximum number of attempts per call. ``max_tokens`` overrides
    the limit of the stages, for reasoning models. ``limit_as`` is the request field of that limit; ``auto`` starts with
    max_tokens (at OpenAI with max_completion_tokens) and switches if the server rejects it. ``logprobs: false`` is for a
    server without log-probabilities. ``body`` adds fields to every request; null removes one:
    ``{reasoning_effort: low, temperature: null}``. ``price`` is for models that litellm's list lacks. ``revision`` is any
    text: changing it repeats all calls. ``replicas`` are further servers with the same weights; their number changes no answer and
    repeats no call, so only ``api_base`` identifies the model. ``batch: true`` submits the calls of a chunk as one OpenAI batch: cheaper there,
    and completed within a day.
    """

    also_known: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("name", "model_name", "model_id", "deployment", "engine"), "model"),
        **dict.fromkeys(("base_url", "url", "endpoint", "host", "server", "openai_api_base", "api_url"), "api_base"),
        **dict.fromkeys(
            ("api_key", "key", "token", "openai_api_key"),
            "a recipe contains no keys; api_key_env: OPENAI_API_KEY names the environment variable with the key",
        ),
        **dict.fromkeys(("max_concurrency", "workers", "num_workers", "parallel", "batch_size", "max_workers"), "concurrency"),
        **dict.fromkeys(("retries", "max_retries", "num_retries"), "attempts"),
        **dict.fromkeys(("request_timeout", "timeout_s"), "timeout"),
        **dict.fromkeys(("max_new_tokens", "max_completion_tokens", "max_output_tokens"), "max_tokens"),
        **dict.fromkeys(
            ("temperature", "top_p", "top_k", "reasoning_effort", "extra_body", "stop"),
            "request fields go under body: body: {temperature: 0.7}",
        ),
    }  # fmt: skip

    model: str = Field(
        min_length=1,
        description="provider/name, as in litellm; with api_base, the server's name of the model.",
    )
    api_base: str | None = Field(
        default=None, description="The address of a server: http://localhost:8000/v1."
    )
    replicas: tuple[str, ...] = Field(
        default=(),
        description="Further addresses of servers with the same model; each call goes to the server with the fewest running.",
    )
    api_key_env: str | None = Field(
        default=None, description="The environment variable with the key."
    )
    transport: Literal["auto", "aiohttp", "litellm"] = Field(
        default="auto",
        description="What sends the calls: nfilter's own aiohttp session or litellm; auto chooses by provider.",
    )
    concurrency: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Parallel calls, 1 to 4096; null adapts the number.",
    )
    timeout: float = Field(default=120.0, gt=0, description="Seconds per attempt.")
    attempts: int = Field(
        default=5, ge=1, le=20, description="Attempts per call, at most, 1 to 20."
    )
    max_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Tokens per reply, at most, in place of the stages' limits; null keeps these.",
    )
    limit_as: Literal["auto", "max_tokens", "max_completion_tokens"] = Field(
        default="auto",
        description="The field of the request that has the limit; auto changes it if the server rejects it.",
    )
    logprobs: bool | None = Field(
        default=None,
        description="Whether the server gives log-probabilities; null looks it up in litellm's tables.",
    )
    revision: str | None = Field(
        default=None, description="Any text; another one repeats all calls."
    )
    price: PriceConfig | None = Field(
        default=None, description="The price, for models that litellm does not know."
    )
    batch: bool = Field(
        default=False,
        description="Submit the calls of a chunk as one OpenAI batch: cheaper, done within a day.",
    )
    body: Mapping[str, Any] = Field(
        default_factory=dict, description="Further fields of every request; null removes a field."
    )

    @model_validator(mode="after")
    def _check_all(self) -> LiteLLMConfig:
        # Not a field validator: its error would show the value, which may be a key.
        if self.api_key_env is not None and not _ENVIRONMENT_NAME.fullmatch(self.api_key_env):
            raise ValueError(
                "api_key_env is the name of an environment variable, such as OPENAI_API_KEY, not the key itself"
            )
        if self.api_base is not None:
            _check_address(self.api_base)
        self._check_replicas()
        _check_model(self.model, route_of(self).transport)
        if self.api_base is None and (needed := address_needed(self.model)):
            raise ValueError(needed)
        for name in sorted(self.body):
            try:
                check_field(name, route_of(self).transport)
            except ValueError as error:
                raise ValueError(f"body: {error}") from None
        return self

    def _check_replicas(self) -> None:
        if not self.replicas:
            return
        for address in self.replicas:
            _check_replica(address)
        if self.api_base is None:
            raise ValueError(
                "replicas are further addresses beside api_base; write the first address as api_base"
            )
        if self.batch:
            raise ValueError(
                "replicas cannot be combined with batch: true, as a batch stays at one server; remove one of them"
            )
        if route_of(self).transport != "aiohttp":
            raise ValueError(
                "replicas are OpenAI-compatible servers, reached without litellm; write transport: aiohttp, or remove replicas"
            )
        bases = [_with_path(each) for each in (self.api_base, *self.replicas)]
        twice = next((each for each in bases if bases.count(each) > 1), None)
        if twice is not None:
            raise ValueError(f"replicas: {twice} is named twice, api_base included; name it once")


def _check_replica(text: str) -> None:
    try:
        _check_address(text)
    except ValueError as error:
        raise ValueError(f"replicas: {error}") from None


def check_field(name: str, transport: str) -> None:
    """Refuse a field of a request that nfilter sets itself, that sets the cost, or that litellm may interpret.

    Raises:
        ValueError: with the reason.
    """
    if _KEYS.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot be set here, because a recipe contains no keys; name the environment variable with the key: "
            "api_key_env: MY_KEY"
        )
    if name in _COST_FIELDS:
        raise ValueError(
            f"{name!r} cannot be set here, because it determines the cost of a call; set the limit with max_tokens on the "
            "model and its request field with limit_as"
        )
    if name in _RESERVED:
        raise ValueError(f"{name!r} cannot be set here")
    if transport == "litellm" and name not in _LITELLM_FIELDS:
        allowed = ", ".join(sorted(_LITELLM_FIELDS))
        raise ValueError(
            f"{name!r} is not a field that can be sent through litellm, which interprets others itself: {allowed}; "
            "an OpenAI-compatible server is reached without litellm, with api_base or transport: aiohttp"
        )


def _check_address(text: str) -> None:
    try:
        parse_address(text)
    except ValueError as error:
        raise ValueError(
            f"api_base is an address such as http://localhost:8000/v1 with only host, port and path, and {error}; put a key "
            "into the environment variable that api_key_env names"
        ) from None


def _check_model(text: str, transport: str) -> None:
    """Refuse a name that addresses, headers or logs could interpret as more than a name."""
    odd = next((c for c in text if not "!" <= c <= "~" or c == "\\"), None)
    if odd is not None:
        raise ValueError(
            f"model is a name in ASCII without blanks and backslashes, but it contains {odd_name(odd)}; type the name as "
            "the server lists it"
        )
    if transport == "litellm" and not _MODEL.fullmatch(text):
        raise ValueError(
            "model is provider/name of letters, digits and . _ - : + @ with single slashes between its parts, none of which is "
            ". or ..; your own server is named with api_base"
        )


@dataclass(frozen=True, slots=True)
class Route:
    """Transport (and the reason for it), address, model name and key variable of a model.

    ``base`` is the complete ``api_base``, None for the provider's own address. ``provider`` is the first part of the
    model's name, or empty.
    """

    transport: Literal["aiohttp", "litellm"]
    reason: str
    name: str
    base: str | None
    key_env: str | None
    provider: str = ""

    @property
    def url(self) -> str:
        """Return the address of the chat completions endpoint (aiohttp)."""
        return f"{self.base}/chat/completions"

    @property
    def destination(self) -> str:
        """Return the address or the provider, for messages."""
        return self.base or f"the provider of {self.name}"


def route_of(config: LiteLLMConfig) -> Route:
    """Return the route: an ``api_base`` or ``openai/`` uses aiohttp, every other provider litellm.

    Providers with their own protocol always use litellm. The setting ``transport`` overrides the rule.
    """
    provider = config.model.split("/", 1)[0] if "/" in config.model else ""
    base = _with_path(config.api_base) if config.api_base is not None else None
    if config.transport != "auto":
        transport, reason = config.transport, f"transport: {config.transport}"
    elif provider in OWN_PROTOCOL:
        transport, reason = "litellm", f"{provider} has its own protocol"
    elif base is not None:
        transport, reason = "aiohttp", "api_base is set"
    elif provider == "openai":
        transport, reason = "aiohttp", "the provider is openai"
    else:
        transport, reason = (
            "litellm",
            f"the provider is {provider or 'none'}, and api_base is not set",
        )
    if transport == "aiohttp":
        key = config.api_key_env or (None if base is not None else "OPENAI_API_KEY")
        return Route(
            "aiohttp", reason, _server_model_name(config.model), base or OPENAI, key, provider
        )
    name = config.model
    if base is not None and provider not in {*OWN_PROTOCOL, "hosted_vllm"}:
        name = f"openai/{_server_model_name(name)}"
    return Route("litellm", reason, name, base, config.api_key_env, provider)


def routes_of(config: LiteLLMConfig) -> list[Route]:
    """Return the route of each server: that of ``api_base``, then those of ``replicas``."""
    first = route_of(config)
    return [first, *(replace(first, base=_with_path(each)) for each in config.replicas)]


def _server_model_name(model: str) -> str:
    """Return the model's name on the server: without the prefix that selects litellm's provider."""
    prefix = next((prefix for prefix in PREFIXES if model.startswith(prefix)), "")
    return model.removeprefix(prefix)


def _with_path(base: str) -> str:
    """Return the address without /chat/completions, with /v1 added if it has no path."""
    trimmed = base.rstrip("/").removesuffix("/chat/completions")
    return trimmed if "/" in trimmed.partition("://")[2] else f"{trimmed}/v1"
