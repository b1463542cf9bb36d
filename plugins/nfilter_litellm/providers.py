"""The litellm transport: every provider that litellm supports, through ``acompletion``."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
from collections.abc import Mapping
from typing import Any

from nfilter import Completion, Request
from nfilter_litellm.client_guards import (
    cause_chain,
    guard_clients,
    never_sent,
    refused_reply,
    sent_once,
)
from nfilter_litellm.config import LiteLLMConfig, Route
from nfilter_litellm.failures import (
    CallError,
    broken,
    from_code,
    from_status,
    not_allowed,
    one_line,
    refused,
    retry_after_of,
    timed_out,
)
from nfilter_litellm.host_guard import HostGuard
from nfilter_litellm.keys import REDACTED, Secret
from nfilter_litellm.limit_field import LimitField, LimitName
from nfilter_litellm.protocol import fields, limit_of, read
from nfilter_litellm.tool_calls import SchemaField

_NO_CODE = 422  # litellm's code of an error that has none, in a reply with status 200


def library() -> Any:
    """Import litellm without its side effects: price list download, ``.env`` files, telemetry, logging."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    previous = os.environ.get("LITELLM_MODE")
    os.environ["LITELLM_MODE"] = "PRODUCTION"  # in DEV, the default, it loads .env
    try:
        import litellm
    finally:
        if previous is None:
            del os.environ["LITELLM_MODE"]
        else:
            os.environ["LITELLM_MODE"] = previous
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    litellm.drop_params = True
    litellm.num_retries = 0
    # Only clients with Python's sockets can be guarded: neither aiohttp's resolvers nor native code.
    litellm.disable_aiohttp_transport = True
    os.environ["LITELLM_RUST"] = "False"
    for name in ("callbacks", "success_callback", "failure_callback", "input_callback"):
        setattr(litellm, name, [])
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    return litellm


def supports_logprobs(model: str) -> bool:
    """Return whether litellm's tables list ``logprobs`` for the model; True for an unknown model."""
    try:
        supported = library().get_supported_openai_params(model)
    except Exception:  # noqa: BLE001 (litellm raises arbitrary exceptions for unknown models)
        return True
    return supported is None or "logprobs" in supported


def _limit_field_of(model: str, config: LiteLLMConfig) -> LimitField:
    """Return the limit field: litellm drops max_completion_tokens where it is unknown, which would leave calls unlimited."""
    try:
        supported = library().get_supported_openai_params(model) or ()
    except Exception:  # noqa: BLE001 (as above)
        supported = ()
    if "max_completion_tokens" not in supported:
        return LimitField("max_tokens", "max_tokens")
    return LimitField("max_tokens", None if config.limit_as == "auto" else config.limit_as)


def provider_of(model: str) -> str:
    """Return litellm's provider for a model name; empty if unknown."""
    try:
        return str(library().get_llm_provider(model)[1])
    except Exception:  # noqa: BLE001 (as above)
        return ""


def missing_keys(model: str) -> list[str]:
    """Return the environment variables that litellm needs for ``model`` and that are not set.

    Raises:
        ValueError: litellm does not know the provider or its address.
    """
    litellm = library()
    try:
        _, provider, _, address = litellm.get_llm_provider(model)
    except Exception as error:  # noqa: BLE001 (as above)
        raise ValueError(one_line(str(getattr(error, "message", error)))) from None
    if provider == "ai21" and address is None:
        # litellm would send requests to api.openai.com.
        name = model.removeprefix("ai21/")
        raise ValueError(f"litellm has no address for it; write ai21_chat/{name}")
    environment = litellm.validate_environment(model)
    return (
        [] if environment.get("keys_in_environment") else list(environment.get("missing_keys", ()))
    )


class LiteLLMTransport:
    """Transport through litellm, without its retries, callbacks and caches; create it in the loop that uses it.

    ``client_guards`` limits its clients' redirects and replies; ``host_guard`` limits its connections.
    """

    def __init__(
        self, route: Route, config: LiteLLMConfig, key: Secret, guard: HostGuard, *, logprobs: bool
    ) -> None:
        self._litellm = library()
        guard_clients()
        self._guard = guard
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
            # Without a value litellm would send a key from the environment.
            fixed["api_key"] = "none"
        self._fixed = fixed
        self._limit_field = _limit_field_of(route.name, config)
        self._schema_field = SchemaField()
        self._removed = frozenset(name for name, value in config.body.items() if value is None)
        self._added = {name: value for name, value in config.body.items() if value is not None}

    async def call(self, request: Request) -> Completion:
        """Make one attempt at a completion; raise CallError."""
        return await self._schema_field.call(
            request, lambda each: self._limit_field.call(lambda name: self._attempt(each, name))
        )

    async def _attempt(self, request: Request, name: LimitName) -> Completion:
        logprobs = self._logprobs and request.logprobs
        asked = fields(
            request, self._config, logprobs=self._logprobs, limit=name, transport="litellm"
        )
        body = asked | self._added
        for removed in self._removed:
            body.pop(removed, None)
        try:
            # litellm's own timeout applies between two parts of a reply.
            with sent_once():
                async with asyncio.timeout(self._config.timeout):
                    reply = await self._litellm.acompletion(**body, **self._fixed)
        except Exception as error:  # noqa: BLE001 (each provider has its own exceptions; each becomes a fault)
            # However the libraries wrapped it.
            if self._guard.refused is not None:
                raise not_allowed(self._guard.refused) from None
            raise fault_of(error, self._config.timeout, self._key) from None
        value = self._key.redacted_value(reply.model_dump())
        limit = limit_of(request, self._config)
        return read(
            value,
            logprobs=logprobs,
            stop=request.sampling.stop,
            limit=limit,
            tools=bool(request.tools),
        )

    async def close(self) -> None:
        """Close litellm's cached clients."""
        from litellm.llms.custom_httpx.async_client_cleanup import close_litellm_async_clients

        await close_litellm_async_clients()
        self._litellm.in_memory_llm_clients_cache.flush_cache()


def fault_of(error: Exception, timeout: float, key: Secret) -> CallError:
    """Convert an exception of litellm to a CallError, classified like a server's own error."""
    known = refused_reply(error) or _error_in_reply(error, key)
    if known is not None:
        return known
    names = {kind.__name__ for kind in type(error).__mro__}
    # Redact before truncating: a part of a key would not match.
    message = key.redacted(str(getattr(error, "message", "") or error)).removeprefix("litellm.")
    # litellm's own redaction ends at the first character that is rare in keys.
    message = re.sub(r"REDACTED[^\s\"',;]*", REDACTED, message)
    detail = one_line(message)
    if "Timeout" in names or isinstance(error, TimeoutError) or never_sent(error):
        return broken(detail, may_be_billed=False) if never_sent(error) else timed_out(timeout)
    if "ContextWindowExceededError" in names:
        return CallError("too_long", detail, is_answer=True)
    if "ContentPolicyViolationError" in names:
        return refused(detail)
    # litellm makes 500 of other statuses; the provider's own is below its exception.
    below = [*cause_chain(error)][1:]
    status = next((each for each in map(_status_of, [*below, error]) if each is not None), None)
    if status is None or "APIConnectionError" in names:
        return broken(detail)
    waits = (_retry_after_of(each) for each in [error, *below])
    return from_status(status, message, next((each for each in waits if each is not None), None))


def _error_in_reply(error: BaseException, key: Secret) -> CallError | None:
    """Return the fault if the server sent an error with status 200; litellm raises a plain Exception for it, else None."""
    for each in cause_chain(error):
        if type(each) is Exception and hasattr(each, "status_code"):
            code = each.status_code
            shown = None if code == _NO_CODE else code
            message = key.redacted(str(getattr(each, "message", "")))
            body = {"error": {"message": message, "code": shown}}
            return from_code(shown, json.dumps(body, default=str))
    return None


def _status_of(error: BaseException) -> int | None:
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) else None


def _retry_after_of(error: BaseException) -> float | None:
    headers = getattr(getattr(error, "response", None), "headers", None)
    return retry_after_of(headers) if isinstance(headers, Mapping) else None
