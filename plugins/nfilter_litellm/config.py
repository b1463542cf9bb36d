"""The configuration of an API model, and the one rule that says how it is reached."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
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
"""Providers that speak another protocol than OpenAI's, also where an ``api_base`` is given."""

_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Through litellm a name becomes a part of an address.
_MODEL = re.compile(r"(?!.*(?:^|/)\.{1,2}(?:/|$))[A-Za-z0-9_.@:+-]+(?:/[A-Za-z0-9_.@:+-]+)*")
_RESERVED = frozenset(
    {
        "model", "messages", "stream", "n", "logprobs", "api_key", "api_base", "base_url", "headers", "extra_headers",
        "extra_body", "callbacks", "mock_response",
    }
)  # fmt: skip
# What an attempt may cost is held before it is made, so nothing else may say how much is generated, or at which price.
_LIMITS = frozenset(
    {
        "max_tokens", "max_completion_tokens", "max_new_tokens", "max_output_tokens", "num_predict", "n_predict", "best_of",
        "service_tier",
    }
)  # fmt: skip
# litellm takes hundreds of fields as its own, among them other models, addresses, keys and loggers.
_THROUGH_LITELLM = frozenset(
    {
        "chat_template_kwargs", "enable_thinking", "frequency_penalty", "keep_alive", "logit_bias", "min_p", "num_ctx",
        "presence_penalty", "reasoning_effort", "repetition_penalty", "response_format", "safety_settings", "seed", "stop",
        "temperature", "think", "thinking", "top_a", "top_k", "top_logprobs", "top_p", "typical_p", "user", "verbosity",
    }
)  # fmt: skip


class PriceConfig(StageConfig):
    """Dollars for a million tokens of a prompt, and for a million that are generated."""

    prompt: float = Field(ge=0, allow_inf_nan=False)
    completion: float = Field(ge=0, allow_inf_nan=False)


class LiteLLMConfig(StageConfig):
    """A model behind an API.

    ``model`` is ``provider/name`` as litellm knows it, or with ``api_base`` the name that the server knows.
    ``api_key_env`` names the environment variable that holds the key. ``concurrency`` fixes how many calls are under
    way at a time, which otherwise finds its own level. ``timeout`` is in seconds, for one attempt; ``attempts`` bounds them.
    ``max_tokens`` takes the place of what the stages ask for, for models that think before they answer. ``limit_as`` is the
    field that carries it; ``auto`` begins with max_tokens (at OpenAI with max_completion_tokens) and takes the other where the
    server refuses that.
    ``logprobs: false`` is for a server that gives none. ``body`` adds fields to every request, and null takes one out:
    ``{reasoning_effort: low, temperature: null}``. ``price`` stands for litellm's list where that does not have the model. ``revision`` is any word: another one asks everything anew.
    ``batch: true`` hands the calls of a chunk to the server together, as OpenAI's batches: cheaper there, and done within a day.
    """

    also_known: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("name", "model_name", "model_id", "deployment", "engine"), "model"),
        **dict.fromkeys(("base_url", "url", "endpoint", "host", "server", "openai_api_base", "api_url"), "api_base"),
        **dict.fromkeys(
            ("api_key", "key", "token", "openai_api_key"),
            "a key is never written down: api_key_env: OPENAI_API_KEY names the environment variable that holds it",
        ),
        **dict.fromkeys(("max_concurrency", "workers", "num_workers", "parallel", "batch_size", "max_workers"), "concurrency"),
        **dict.fromkeys(("retries", "max_retries", "num_retries"), "attempts"),
        **dict.fromkeys(("request_timeout", "timeout_s"), "timeout"),
        **dict.fromkeys(("max_new_tokens", "max_completion_tokens", "max_output_tokens"), "max_tokens"),
        **dict.fromkeys(
            ("temperature", "top_p", "top_k", "reasoning_effort", "extra_body", "stop"),
            "fields of a request stand under body: body: {temperature: 0.7}",
        ),
    }  # fmt: skip

    model: str = Field(min_length=1)
    api_base: str | None = None
    api_key_env: str | None = None
    transport: Literal["auto", "aiohttp", "litellm"] = "auto"
    concurrency: int | None = Field(default=None, ge=1, le=4096)
    timeout: float = Field(default=120.0, gt=0)
    attempts: int = Field(default=5, ge=1, le=20)
    max_tokens: int | None = Field(default=None, ge=1)
    limit_as: Literal["auto", "max_tokens", "max_completion_tokens"] = "auto"
    logprobs: bool | None = None
    revision: str | None = None
    price: PriceConfig | None = None
    batch: bool = False
    body: Mapping[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _no_secret_is_written_down(self) -> LiteLLMConfig:
        # Checked here and not in the field, so that an error never shows what was written.
        if self.api_key_env is not None and not _ENVIRONMENT_NAME.fullmatch(self.api_key_env):
            raise ValueError(
                "api_key_env is the name of an environment variable, such as OPENAI_API_KEY, and never the key itself"
            )
        if self.api_base is not None:
            _check_address(self.api_base)
        _check_model(self.model, route(self).transport)
        if self.api_base is None and (needed := address_needed(self.model)):
            raise ValueError(needed)
        for name in sorted(self.body):
            _check_field(name, route(self).transport)
        return self


def _check_field(name: str, transport: str) -> None:
    if name in _LIMITS:
        raise ValueError(
            f"body: {name!r} is not set there: what a call may cost depends on it; max_tokens on the model sets the limit, and limit_as the field that carries it"
        )
    if name in _RESERVED:
        raise ValueError(f"body: {name!r} is not set there")
    if transport == "litellm" and name not in _THROUGH_LITELLM:
        allowed = ", ".join(sorted(_THROUGH_LITELLM))
        raise ValueError(
            f"body: {name!r} is none of the fields that go through litellm, which takes others for its own: {allowed}; "
            "a server that speaks OpenAI's protocol is reached without it, with api_base or transport: aiohttp"
        )


def _check_address(text: str) -> None:
    try:
        parse_address(text)
    except ValueError as error:
        raise ValueError(
            f"api_base is an address such as http://localhost:8000/v1, with host, port and path alone, and {error}; a key "
            "goes into an environment variable that api_key_env names"
        ) from None


def _check_model(text: str, transport: str) -> None:
    """A name goes into addresses, headers and logs: what could be read as more than a name there is refused."""
    odd = next((c for c in text if not "!" <= c <= "~" or c == "\\"), None)
    if odd is not None:
        raise ValueError(
            f"model is a name in plain ASCII without blanks and backslashes, and it holds {odd_name(odd)}; type the name as "
            "the server lists it"
        )
    if transport == "litellm" and not _MODEL.fullmatch(text):
        raise ValueError(
            "model is provider/name of letters, digits and . _ - : + @ with single slashes between its parts, none of which is "
            ". or ..; a server of your own is named with api_base"
        )


@dataclass(frozen=True, slots=True)
class Route:
    """How a model is reached: over which transport and why, at which address, under which name and key.

    ``url`` is where an aiohttp request goes; ``base`` is the ``api_base`` in full, None for the provider's own.
    ``provider`` is the first part of the model's name, empty where it has none.
    """

    transport: Literal["aiohttp", "litellm"]
    why: str
    name: str
    base: str | None
    key_env: str | None
    provider: str = ""

    @property
    def url(self) -> str:
        """The address of chat completions."""
        return f"{self.base}/chat/completions"

    @property
    def place(self) -> str:
        """The address, or the provider, for people."""
        return self.base or f"the provider of {self.name}"


def route(config: LiteLLMConfig) -> Route:
    """The rule: an ``api_base`` or ``openai/`` goes over aiohttp, every other provider through litellm.

    Providers with a protocol of their own go through litellm in any case, and ``transport`` may say otherwise.
    """
    provider = config.model.split("/", 1)[0] if "/" in config.model else ""
    base = _in_full(config.api_base) if config.api_base is not None else None
    if config.transport != "auto":
        transport, why = config.transport, f"transport: {config.transport}"
    elif provider in OWN_PROTOCOL:
        transport, why = "litellm", f"{provider} has a protocol of its own"
    elif base is not None:
        transport, why = "aiohttp", "api_base is given"
    elif provider == "openai":
        transport, why = "aiohttp", "the provider is openai"
    else:
        transport, why = (
            "litellm",
            f"the provider is {provider or 'none'}, and no api_base is given",
        )
    if transport == "aiohttp":
        key = config.api_key_env or (None if base is not None else "OPENAI_API_KEY")
        return Route("aiohttp", why, _known_there(config.model), base or OPENAI, key, provider)
    name = config.model
    if base is not None and provider not in {*OWN_PROTOCOL, "hosted_vllm"}:
        name = f"openai/{_known_there(name)}"
    return Route("litellm", why, name, base, config.api_key_env, provider)


def _known_there(model: str) -> str:
    """The name that the server at an ``api_base`` knows: without the one prefix that tells litellm where to look."""
    prefix = next((prefix for prefix in PREFIXES if model.startswith(prefix)), "")
    return model.removeprefix(prefix)


def _in_full(base: str) -> str:
    """``http://host`` means ``http://host/v1``, as the servers have it; a path that is given stays."""
    trimmed = base.rstrip("/").removesuffix("/chat/completions")
    return trimmed if "/" in trimmed.partition("://")[2] else f"{trimmed}/v1"
