"""The broad path: every provider that litellm knows, through its ``acompletion``."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from typing import Any

from nfilter import Completion, Request
from nfilter_litellm.bounds import bound_clients, never_sent, out_of_bounds, sent_once
from nfilter_litellm.config import LiteLLMConfig, Route
from nfilter_litellm.failures import (
    CallError,
    broken,
    from_status,
    not_allowed,
    one_line,
    refused,
    seconds_of,
    timed_out,
)
from nfilter_litellm.held import Hold
from nfilter_litellm.keys import Secret
from nfilter_litellm.limits import Limit, Name
from nfilter_litellm.protocol import fields, limit_of, read


def library() -> Any:
    """litellm, kept from what it does unasked: a price list from the network, ``.env`` files, telemetry, logging."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    mode = os.environ.get("LITELLM_MODE")
    os.environ["LITELLM_MODE"] = "PRODUCTION"  # in DEV, the default, it loads .env
    try:
        import litellm
    finally:
        if mode is None:
            del os.environ["LITELLM_MODE"]
        else:
            os.environ["LITELLM_MODE"] = mode
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    litellm.drop_params = True
    litellm.num_retries = 0
    # One kind of client, with Python's sockets, can be held: neither aiohttp's resolvers nor code that is not Python.
    litellm.disable_aiohttp_transport = True
    os.environ["LITELLM_RUST"] = "False"
    for name in ("callbacks", "success_callback", "failure_callback", "input_callback"):
        setattr(litellm, name, [])
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    return litellm


def gives_logprobs(model: str) -> bool:
    """Whether litellm's tables say that the model's provider takes ``logprobs``; True where they do not know it."""
    try:
        supported = library().get_supported_openai_params(model)
    except Exception:  # noqa: BLE001 (litellm raises what it likes for what it does not know)
        return True
    return supported is None or "logprobs" in supported


def _limit_of(model: str, config: LiteLLMConfig) -> Limit:
    """litellm writes the name that a provider has. Where it does not know the new one it drops it, and nothing would bound a call."""
    try:
        known = library().get_supported_openai_params(model) or ()
    except Exception:  # noqa: BLE001 (as above)
        known = ()
    if "max_completion_tokens" not in known:
        return Limit("max_tokens", "max_tokens")
    return Limit("max_tokens", None if config.limit_as == "auto" else config.limit_as)


def provider_of(model: str) -> str:
    """The provider that litellm takes a name to be of; empty where it knows none."""
    try:
        return str(library().get_llm_provider(model)[1])
    except Exception:  # noqa: BLE001 (as above)
        return ""


def missing_keys(model: str) -> list[str]:
    """The environment variables that litellm misses for ``model``.

    Raises:
        ValueError: when litellm knows no such provider.
    """
    litellm = library()
    try:
        _, provider, _, address = litellm.get_llm_provider(model)
    except Exception as error:  # noqa: BLE001 (as above)
        raise ValueError(one_line(str(getattr(error, "message", error)))) from None
    if provider == "ai21" and address is None:
        # litellm would send it to api.openai.com.
        name = model.removeprefix("ai21/")
        raise ValueError(f"litellm knows no address for it; write ai21_chat/{name}")
    found = litellm.validate_environment(model)
    return [] if found.get("keys_in_environment") else list(found.get("missing_keys", ()))


class LiteLLMTransport:
    """Requests through litellm, with its retries, callbacks and caches off. It is built in the loop that uses it.

    Its clients follow no redirect and read no reply without an end, see ``bounds``; what it connects to is held below all of
    them, see ``held``.
    """

    def __init__(
        self, route: Route, config: LiteLLMConfig, key: Secret, hold: Hold, *, logprobs: bool
    ) -> None:
        self._litellm = library()
        bound_clients()
        self._hold = hold
        self._config = config
        self._key = key
        self._logprobs = logprobs
        fixed: dict[str, Any] = {
            "model": route.name,
            "timeout": config.timeout,
            "max_retries": 0,
            "num_retries": 0,
            "drop_params": True,
            "caching": False,
        }
        if route.base is not None:
            fixed["api_base"] = route.base
        if key.value is not None:
            fixed["api_key"] = key.value
        elif route.base is not None:
            fixed["api_key"] = (
                "none"  # else litellm would send a key that it finds in the environment
            )
        self._fixed = fixed
        self._limit = _limit_of(route.name, config)
        self._taken_out = frozenset(name for name, value in config.body.items() if value is None)
        self._more = {name: value for name, value in config.body.items() if value is not None}

    async def call(self, request: Request) -> Completion:
        """One attempt at a completion. Raises CallError."""
        return await self._limit.tried(lambda name: self._once(request, name))

    async def _once(self, request: Request, limit: Name) -> Completion:
        wanted = self._logprobs and request.logprobs
        asked = fields(request, self._config, logprobs=self._logprobs, limit=limit) | self._more
        for name in self._taken_out:
            asked.pop(name, None)
        try:
            # litellm's own timeout is one between two pieces of a reply.
            with sent_once():
                async with asyncio.timeout(self._config.timeout):
                    reply = await self._litellm.acompletion(**asked, **self._fixed)
        except Exception as error:  # noqa: BLE001 (every provider brings its own; each becomes a fault)
            # Whatever the libraries in between made of it.
            if self._hold.refused is not None:
                raise not_allowed(self._hold.refused) from None
            raise fault_of(error, self._config.timeout, self._key) from None
        value = self._key.redacted_value(reply.model_dump())
        most = limit_of(request, self._config)
        return read(value, logprobs=wanted, stop=request.sampling.stop, limit=most)

    async def close(self) -> None:
        """Close the clients that litellm keeps."""
        from litellm.llms.custom_httpx.async_client_cleanup import close_litellm_async_clients

        await close_litellm_async_clients()
        self._litellm.in_memory_llm_clients_cache.flush_cache()


def fault_of(error: Exception, timeout: float, key: Secret) -> CallError:
    """What an exception of litellm's means; its message goes through the same reading as a server's own."""
    bounded = out_of_bounds(error)
    if bounded is not None:
        return bounded
    names = {kind.__name__ for kind in type(error).__mro__}
    # Before it is cut: a part of a key would not be found.
    message = one_line(key.redacted(str(getattr(error, "message", "") or error)))
    told = message.removeprefix("litellm.")
    if "Timeout" in names or isinstance(error, TimeoutError) or never_sent(error):
        return broken(told, worked=False) if never_sent(error) else timed_out(timeout)
    if "ContextWindowExceededError" in names:
        return CallError("too_long", told, spoken=True)
    if "ContentPolicyViolationError" in names:
        return refused(told)
    status = getattr(error, "status_code", None)
    if "APIConnectionError" in names or not isinstance(status, int):
        return broken(told)
    headers = getattr(getattr(error, "response", None), "headers", None)
    after = seconds_of(headers) if isinstance(headers, Mapping) else None
    return from_status(status, told, after)
