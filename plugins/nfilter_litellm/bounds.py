"""What litellm's HTTP clients are kept from: following a redirect with the key, and reading a reply without an end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from nfilter import ModelError
from nfilter_litellm.failures import CallError, broken, from_status
from nfilter_litellm.held import current

if TYPE_CHECKING:
    import httpx

MOST_BYTES = 16 * 2**20


_sent: ContextVar[set[str] | None] = ContextVar("nfilter_litellm_sent", default=None)
_UNSENT = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol"})


class OutOfBoundsError(Exception):
    """A reply that is not read on, and what that means for its call."""

    def __init__(self, fault: CallError) -> None:
        super().__init__(fault.detail)
        self.fault = fault


def bound_clients() -> None:
    """Have every asynchronous client that litellm makes from now on follow no redirect and read ``MOST_BYTES`` at most.

    litellm has no setting for either. It makes these clients in two places, and both are wrapped here. A client that a
    provider's own library makes (boto3, Google's credentials) is not among them.

    Raises:
        ModelError: when this litellm makes its clients elsewhere, so that nothing would hold them.
    """
    from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler
    from litellm.llms.openai.common_utils import BaseOpenAILLM

    for owner, name, kind in (
        (AsyncHTTPHandler, "create_client", _as_method),
        (BaseOpenAILLM, "_get_async_http_client", _as_static),
    ):
        made = getattr(owner, name, None)
        if made is None:
            raise ModelError(
                f"this version of litellm has no {owner.__name__}.{name}, so that its redirects and the size of its "
                "replies cannot be bounded; type: pip install 'litellm<1.111'"
            )
        if not getattr(made, "bounded", False):
            setattr(owner, name, kind(made))


def _as_method(made: Callable[..., httpx.AsyncClient]) -> Any:
    def create(self: Any, *args: Any, **kwargs: Any) -> httpx.AsyncClient:
        return _bounded(made(self, *args, **kwargs))

    create.bounded = True  # type: ignore[attr-defined]
    return create


def _as_static(made: Callable[..., httpx.AsyncClient]) -> Any:
    def create(*args: Any, **kwargs: Any) -> httpx.AsyncClient:
        return _bounded(made(*args, **kwargs))

    create.bounded = True  # type: ignore[attr-defined]
    return staticmethod(create)


def _bounded(client: httpx.AsyncClient) -> httpx.AsyncClient:
    client.follow_redirects = False
    # The bound is on what is sent: a server that compresses all the same may say more with it.
    client.headers["Accept-Encoding"] = "identity"
    # A proxy that the environment names would be connected to in place of the host.
    client._mounts = {}  # noqa: SLF001 (httpx has no setting for a client that is made already)
    hooks = client.event_hooks
    client.event_hooks = {
        **hooks,
        "request": [*hooks.get("request", ()), _judge],
        "response": [*hooks.get("response", ()), _bound],
    }
    return client


async def _judge(request: httpx.Request) -> None:
    """Before anything is sent, over a connection that is kept too: the host has to be allowed.

    litellm sends a request again where a connection was lost. That would be billed twice and counted once.
    """
    hold = current()
    if hold is not None:
        hold.judge_name(request.url.raw_host.decode("ascii", "backslashreplace"))
    sent = _sent.get()
    if sent is None or request.method == "GET":
        return
    url = str(request.url)
    if url in sent:
        raise OutOfBoundsError(broken("the connection was lost before a reply came"))

    async def trace(event: str, _: Any) -> None:
        if event.endswith("send_request_headers.started"):
            sent.add(url)

    request.extensions = {**request.extensions, "trace": trace}


@contextmanager
def sent_once() -> Iterator[None]:
    """In the block, a client of litellm's sends to no address twice. A connection that failed may be tried again."""
    token = _sent.set(set())
    try:
        yield
    finally:
        _sent.reset(token)


def never_sent(error: BaseException | None) -> bool:
    """Whether an exception came of a connection that was never made."""
    return any(type(each).__name__ in _UNSENT for each in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and all that it came of."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__


async def _bound(response: httpx.Response) -> None:
    """Before the body is read: a redirect ends here, and a counter is put in the way of all else."""
    import httpx

    if response.has_redirect_location:
        raise OutOfBoundsError(from_status(response.status_code, ""))

    class Counted(httpx.AsyncByteStream):
        def __init__(self, stream: httpx.AsyncByteStream) -> None:
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for part in self._stream:
                size += len(part)
                if size > MOST_BYTES:
                    raise OutOfBoundsError(
                        broken(f"the reply has more than {MOST_BYTES // 2**20} MiB")
                    )
                yield part

        async def aclose(self) -> None:
            await self._stream.aclose()

    if isinstance(response.stream, httpx.AsyncByteStream):
        response.stream = Counted(response.stream)


def out_of_bounds(error: BaseException | None) -> CallError | None:
    """The fault, where an exception came of a reply out of bounds, whatever that was wrapped in since."""
    return next((each.fault for each in _chain(error) if isinstance(each, OutOfBoundsError)), None)
