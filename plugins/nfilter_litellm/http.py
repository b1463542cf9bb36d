"""The aiohttp transport: one pooled session to an OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import json
import socket
import zlib
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from nfilter import Completion, Request
from nfilter_litellm.client_guards import MAX_REPLY_BYTES
from nfilter_litellm.config import OPENAI, LiteLLMConfig, Route
from nfilter_litellm.failures import (
    CallError,
    broken,
    from_status,
    not_allowed,
    one_line,
    retry_after_of,
    status_may_be_billed,
    timed_out,
)
from nfilter_litellm.host_guard import HostGuard, HostNotAllowedError
from nfilter_litellm.keys import Secret
from nfilter_litellm.limit_field import LimitField, LimitName
from nfilter_litellm.protocol import fields, limit_of, read
from nfilter_litellm.tool_calls import SchemaField

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL

_MAX_ERROR_BYTES = 2**16
_MAX_HEADER_BYTES = 2**16  # aiohttp's own limit is below what some gateways send
_FILE_TIMEOUT = 3600.0  # seconds per file transfer
_SUCCESS = (200, 201)
_GZIP = zlib.MAX_WBITS | 16
# zlib's window of each compression; some servers send deflate without its header.
_WINDOWS = {"gzip": (_GZIP,), "x-gzip": (_GZIP,), "deflate": (zlib.MAX_WBITS, -zlib.MAX_WBITS)}
_SERVER_FAULT = 500  # the first status of a fault of the server
_JSON_HEADERS = {"Content-Type": "application/json"}


class Connection:
    """Pooled session with one server; create it in the event loop that uses it.

    Redirects are not followed, proxies and netrc of the environment are ignored, and the key is redacted from replies. A
    reply has at most ``MAX_REPLY_BYTES`` and takes at most ``timeout`` seconds. Hosts that ``guard`` does not allow are
    neither looked up nor connected to.
    """

    def __init__(self, timeout: float, key: Secret, guard: HostGuard) -> None:
        import aiohttp

        self._timeout = timeout
        self._key = key
        self._guard = guard
        self._connect_timeout = aiohttp.ConnectionTimeoutError
        self._connect_error: type[aiohttp.ClientConnectorError] = aiohttp.ClientConnectorError
        self._errors: tuple[type[Exception], ...] = (aiohttp.ClientError, OSError, ValueError)
        # Files are large: an hour in total, with ``timeout`` between two reads.
        self._file_timeout = aiohttp.ClientTimeout(total=_FILE_TIMEOUT, sock_connect=min(20, timeout), sock_read=timeout)  # fmt: skip
        headers = {"Accept-Encoding": "identity"}
        if key.value is not None:
            headers["Authorization"] = f"Bearer {key.value}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, ttl_dns_cache=300, keepalive_timeout=30, resolver=_resolver(guard)
            ),
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=min(20, timeout)),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            max_line_size=_MAX_HEADER_BYTES,
            max_field_size=_MAX_HEADER_BYTES,
        )  # fmt: skip

    async def get(self, url: URL) -> Any:
        """Return the JSON at an address; raise CallError."""
        with self._convert_errors(url):
            async with self._session.get(url, allow_redirects=False) as reply:
                return await self._parse_reply(reply)

    async def post(self, url: URL, data: bytes) -> Any:
        """Return the JSON reply to a JSON body; raise CallError."""
        with self._convert_errors(url):
            async with self._session.post(
                url, data=data, headers=_JSON_HEADERS, allow_redirects=False
            ) as reply:
                return await self._parse_reply(reply)

    async def send(self, url: URL, form: aiohttp.FormData) -> Any:
        """Return the JSON reply to a form with a file; raise CallError."""
        with self._convert_errors(url):
            async with self._session.post(
                url, data=form, allow_redirects=False, timeout=self._file_timeout
            ) as reply:
                return await self._parse_reply(reply)

    async def lines(self, url: URL) -> AsyncGenerator[bytes, None]:
        """Yield the lines of a file, each of at most ``MAX_REPLY_BYTES``; raise CallError."""
        with self._convert_errors(url):
            async with self._session.get(
                url, allow_redirects=False, timeout=self._file_timeout
            ) as reply:
                if reply.status not in _SUCCESS:
                    await self._parse_reply(reply)
                if _coding_of(reply):
                    raise _compressed(reply)
                rest = bytearray()
                async for part in reply.content.iter_any():
                    *whole, last = part.split(b"\n")
                    for line in whole:
                        rest += line
                        yield self._key.redacted_bytes(bytes(rest))
                        rest.clear()
                    rest += last
                    if len(rest) > MAX_REPLY_BYTES:
                        raise broken(
                            f"a line of the file has more than {MAX_REPLY_BYTES // 2**20} MiB"
                        )
                yield self._key.redacted_bytes(bytes(rest))

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()
        # aiohttp closes TLS connections in the next iteration of the loop.
        await asyncio.sleep(0)

    async def _parse_reply(self, reply: aiohttp.ClientResponse) -> Any:
        success = reply.status in _SUCCESS
        body = await _body_of(reply, MAX_REPLY_BYTES if success else _MAX_ERROR_BYTES)
        body = self._key.redacted_bytes(body)
        if not success:
            raise from_status(
                reply.status, body.decode("utf-8", "replace"), retry_after_of(reply.headers)
            )
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            start = one_line(body[:200].decode("utf-8", "replace"))
            what = f"begins with {start[:60]!r}" if start else "is empty"
            raise broken(f"the reply has status 200 and is not JSON; it {what}") from None

    @contextmanager
    def _convert_errors(self, url: URL) -> Iterator[None]:
        try:
            # The resolver checks names only; a numeric address is checked here.
            self._guard.check_name(url.raw_host or "")
            yield
        except HostNotAllowedError as error:
            raise not_allowed(error.host) from None
        except self._connect_timeout:
            raise broken("the connection timed out", may_be_billed=False) from None
        except self._connect_error as error:
            if isinstance(error.os_error, HostNotAllowedError):
                raise not_allowed(error.os_error.host) from None
            raise broken(_message_of(error, self._key), may_be_billed=False) from None
        except TimeoutError:
            raise timed_out(self._timeout) from None
        except self._errors as error:
            raise broken(_message_of(error, self._key)) from None


class HttpTransport:
    """Transport with one HTTP request per completion; create it in the event loop that uses it."""

    def __init__(
        self, route: Route, config: LiteLLMConfig, key: Secret, guard: HostGuard, *, logprobs: bool
    ) -> None:
        from yarl import URL

        self._config = config
        self._route = route
        self._logprobs = logprobs
        self._url = URL(route.url)
        self._limit_field = limit_for(route, config)
        self._schema_field = SchemaField()
        self._connection = Connection(config.timeout, key, guard)

    async def call(self, request: Request) -> Completion:
        """Make one attempt at a completion; raise CallError."""
        return await self._schema_field.call(
            request, lambda each: self._limit_field.call(lambda name: self._attempt(each, name))
        )

    async def answers(self) -> bool:
        """Return whether the server answers, with its list of models or with a refusal of it."""
        from yarl import URL

        try:
            await self._connection.get(URL(f"{self._route.base}/models"))
        except CallError as error:
            return error.status is not None and error.status < _SERVER_FAULT
        return True

    async def _attempt(self, request: Request, name: LimitName) -> Completion:
        body = request_body(request, self._route, self._config, logprobs=self._logprobs, limit=name)
        # JSON escapes encode the surrogates of invalid text, which UTF-8 cannot.
        value = await self._connection.post(self._url, json.dumps(body).encode())
        logprobs = self._logprobs and request.logprobs
        limit = limit_of(request, self._config)
        return read(
            value,
            logprobs=logprobs,
            stop=request.sampling.stop,
            limit=limit,
            tools=bool(request.tools),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._connection.close()


def limit_for(route: Route, config: LiteLLMConfig) -> LimitField:
    """Return the limit field: max_completion_tokens at OpenAI, which requires it for newer models, else max_tokens."""
    default: LimitName = "max_completion_tokens" if route.base == OPENAI else "max_tokens"
    return LimitField(default, None if config.limit_as == "auto" else config.limit_as)


def request_body(
    request: Request, route: Route, config: LiteLLMConfig, *, logprobs: bool, limit: LimitName
) -> dict[str, Any]:
    """Return the body of a request: the protocol's fields with the config's additions and removals."""
    body: dict[str, Any] = {
        "model": route.name,
        **fields(request, config, logprobs=logprobs, limit=limit),
    }
    body.update(config.body)
    return {name: value for name, value in body.items() if value is not None}


def _resolver(guard: HostGuard) -> Any:
    """Return an aiohttp resolver for allowed hosts that uses the system's lookup."""
    from aiohttp.abc import AbstractResolver, ResolveResult
    from aiohttp.resolver import ThreadedResolver

    class GuardedResolver(AbstractResolver):
        def __init__(self) -> None:
            self._resolver = ThreadedResolver()

        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            guard.check_name(host)
            return await self._resolver.resolve(host, port, family)

        async def close(self) -> None:
            await self._resolver.close()

    return GuardedResolver()


async def _body_of(reply: aiohttp.ClientResponse, limit: int) -> bytes:
    """Return the body; truncate an error to ``limit`` bytes, and raise CallError for a longer answer."""
    success = reply.status in _SUCCESS
    parts: list[bytes] = []
    size = 0
    async for part in reply.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > limit:
            reply.close()
            break
    body = b"".join(parts)
    if _coding_of(reply):
        body = _unpacked(reply, body, limit)
    if len(body) > limit and success:
        raise broken(f"the reply has more than {limit // 2**20} MiB")
    return body[:limit]


def _coding_of(reply: aiohttp.ClientResponse) -> str:
    """Return how the body is compressed, although no compression was requested; empty if it is not."""
    coding = reply.headers.get("Content-Encoding", "").strip().lower()
    return "" if coding == "identity" else coding


def _unpacked(reply: aiohttp.ClientResponse, body: bytes, limit: int) -> bytes:
    """Return at most ``limit`` + 1 bytes of a body compressed by gzip or deflate; raise CallError."""
    for window in _WINDOWS.get(_coding_of(reply), ()):
        with suppress(zlib.error):
            return zlib.decompressobj(window).decompress(body, limit + 1)
    raise _compressed(reply)


def _compressed(reply: aiohttp.ClientResponse) -> CallError:
    coding = one_line(_coding_of(reply))
    fault = broken(
        f"the reply cannot be read: it is compressed ({coding}), which was not requested"
    )
    fault.may_be_billed = reply.status in _SUCCESS or status_may_be_billed(reply.status)
    return fault


def _message_of(error: Exception, key: Secret) -> str:
    """Return the message of a connection error with its type, since some have no other text."""
    text = one_line(key.redacted(str(error)))
    return f"the connection failed: {type(error).__name__}: {text}".rstrip(": ")
