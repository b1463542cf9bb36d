"""Limits on litellm's HTTP clients: no redirects (which would send the key elsewhere), bounded replies, no resending."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from nfilter import ModelError
from nfilter_litellm.failures import CallError, broken, from_status
from nfilter_litellm.host_guard import current_guard

if TYPE_CHECKING:
    import httpx

MAX_REPLY_BYTES = 16 * 2**20


_sent: ContextVar[set[str] | None] = ContextVar("nfilter_litellm_sent", default=None)
_NOT_CONNECTED = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol"})


class RefusedReplyError(Exception):
    """A reply that is not read, with the fault of its call."""

    def __init__(self, fault: CallError) -> None:
        super().__init__(fault.detail)
        self.fault = fault


def guard_clients() -> None:
    """Make all later asynchronous clients of litellm follow no redirect and read at most ``MAX_REPLY_BYTES``.

    litellm has no setting for either. It creates these clients in two places, which are wrapped here. Clients of a
    provider's own library (boto3, Google's credentials) are not covered.

    Raises:
        ModelError: this version of litellm creates its clients elsewhere.
    """
    from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler
    from litellm.llms.openai.common_utils import BaseOpenAILLM

    for owner, name, wrap in (
        (AsyncHTTPHandler, "create_client", _wrap_method),
        (BaseOpenAILLM, "_get_async_http_client", _wrap_static),
    ):
        factory = getattr(owner, name, None)
        if factory is None:
            raise ModelError(
                f"this version of litellm has no {owner.__name__}.{name}, so its redirects and the size of its replies "
                "cannot be limited; type: pip install 'litellm<1.111'"
            )
        if not getattr(factory, "guarded", False):
            setattr(owner, name, wrap(factory))


def _wrap_method(factory: Callable[..., httpx.AsyncClient]) -> Any:
    def create(self: Any, *args: Any, **kwargs: Any) -> httpx.AsyncClient:
        return _guard(factory(self, *args, **kwargs))

    create.guarded = True  # type: ignore[attr-defined]
    return create


def _wrap_static(factory: Callable[..., httpx.AsyncClient]) -> Any:
    def create(*args: Any, **kwargs: Any) -> httpx.AsyncClient:
        return _guard(factory(*args, **kwargs))

    create.guarded = True  # type: ignore[attr-defined]
    return staticmethod(create)


def _guard(client: httpx.AsyncClient) -> httpx.AsyncClient:
    client.follow_redirects = False
    # The limit applies to the bytes sent, so compression is not requested.
    client.headers["Accept-Encoding"] = "identity"
    # A proxy from the environment would be connected to in place of the host.
    client._mounts = {}  # noqa: SLF001 (httpx has no setting for an existing client)
    hooks = client.event_hooks
    client.event_hooks = {
        **hooks,
        "request": [*hooks.get("request", ()), _check_request],
        "response": [*hooks.get("response", ()), _check_response],
    }
    return client


async def _check_request(request: httpx.Request) -> None:
    """Check that the host is allowed before sending, also on a reused connection, and that nothing is sent twice.

    litellm resends a request after a lost connection, which would be billed twice and counted once.
    """
    guard = current_guard()
    if guard is not None:
        guard.check_name(request.url.raw_host.decode("ascii", "backslashreplace"))
    sent = _sent.get()
    if sent is None or request.method == "GET":
        return
    url = str(request.url)
    if url in sent:
        raise RefusedReplyError(broken("the connection was lost before a reply came"))

    async def trace(event: str, _: Any) -> None:
        if event.endswith("send_request_headers.started"):
            sent.add(url)

    request.extensions = {**request.extensions, "trace": trace}


@contextmanager
def sent_once() -> Iterator[None]:
    """Prevent litellm's clients from sending twice to an address in the block; failed connections may be retried."""
    token = _sent.set(set())
    try:
        yield
    finally:
        _sent.reset(token)


def never_sent(error: BaseException | None) -> bool:
    """Return whether an exception was caused by a connection that was never made."""
    return any(type(each).__name__ in _NOT_CONNECTED for each in cause_chain(error))


def cause_chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and its causes."""
    visited: set[int] = set()
    while error is not None and id(error) not in visited:
        yield error
        visited.add(id(error))
        error = error.__cause__ or error.__context__


async def _check_response(response: httpx.Response) -> None:
    """Refuse a redirect, and limit the size of the body, before it is read."""
    import httpx

    if response.has_redirect_location:
        raise RefusedReplyError(from_status(response.status_code, ""))

    class LimitedStream(httpx.AsyncByteStream):
        def __init__(self, stream: httpx.AsyncByteStream) -> None:
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for part in self._stream:
                size += len(part)
                if size > MAX_REPLY_BYTES:
                    raise RefusedReplyError(
                        broken(f"the reply has more than {MAX_REPLY_BYTES // 2**20} MiB")
                    )
                yield part

        async def aclose(self) -> None:
            await self._stream.aclose()

    if isinstance(response.stream, httpx.AsyncByteStream):
        response.stream = LimitedStream(response.stream)


def refused_reply(error: BaseException | None) -> CallError | None:
    """Return the fault if an exception was caused by a RefusedReplyError, however it was wrapped; else None."""
    return next(
        (each.fault for each in cause_chain(error) if isinstance(each, RefusedReplyError)), None
    )
