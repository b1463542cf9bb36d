"""The fast path: one pooled aiohttp session to an OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from nfilter import Completion, Request
from nfilter_litellm.bounds import MOST_BYTES
from nfilter_litellm.config import OPENAI, LiteLLMConfig, Route
from nfilter_litellm.failures import (
    broken,
    from_status,
    not_allowed,
    one_line,
    seconds_of,
    timed_out,
)
from nfilter_litellm.held import Hold, HostNotAllowedError
from nfilter_litellm.keys import Secret
from nfilter_litellm.limits import Limit, Name
from nfilter_litellm.protocol import fields, limit_of, read

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL

_ERROR_BYTES = 2**16
_FILE = 3600.0  # seconds that a file may take
_FINE = (200, 201)
_JSON = {"Content-Type": "application/json"}


class Connection:
    """A pooled session with one server, and with no other: redirects are not followed, the environment's proxies and
    netrc not read, and the key is taken out of all that is read. A reply may have ``MOST_BYTES`` and take ``timeout``
    seconds. A host that ``hold`` does not allow is neither looked up nor connected to.

    It is built in the event loop that uses it.
    """

    def __init__(self, timeout: float, key: Secret, hold: Hold) -> None:
        import aiohttp

        self._timeout = timeout
        self._key = key
        self._hold = hold
        self._unconnected = aiohttp.ConnectionTimeoutError
        self._refused: type[aiohttp.ClientConnectorError] = aiohttp.ClientConnectorError
        self._errors: tuple[type[Exception], ...] = (aiohttp.ClientError, OSError, ValueError)
        # Files are large: they have an hour, as long as something comes.
        self._patient = aiohttp.ClientTimeout(total=_FILE, sock_connect=min(20, timeout), sock_read=timeout)  # fmt: skip
        headers = {"Accept-Encoding": "identity"}
        if key.value is not None:
            headers["Authorization"] = f"Bearer {key.value}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, ttl_dns_cache=300, keepalive_timeout=30, resolver=_resolver(hold)
            ),
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=min(20, timeout)),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )  # fmt: skip

    async def get(self, url: URL) -> Any:
        """The JSON at an address. Raises CallError."""
        with self._faults(url):
            async with self._session.get(url, allow_redirects=False) as reply:
                return await self._read(reply)

    async def post(self, url: URL, data: bytes) -> Any:
        """The JSON in reply to a JSON body. Raises CallError."""
        with self._faults(url):
            async with self._session.post(
                url, data=data, headers=_JSON, allow_redirects=False
            ) as reply:
                return await self._read(reply)

    async def send(self, url: URL, form: aiohttp.FormData) -> Any:
        """The JSON in reply to a form with a file. Raises CallError."""
        with self._faults(url):
            async with self._session.post(
                url, data=form, allow_redirects=False, timeout=self._patient
            ) as reply:
                return await self._read(reply)

    async def lines(self, url: URL) -> AsyncGenerator[bytes, None]:
        """The lines of a file as they come, each of ``MOST_BYTES`` at most. Raises CallError."""
        with self._faults(url):
            async with self._session.get(
                url, allow_redirects=False, timeout=self._patient
            ) as reply:
                if reply.status not in _FINE:
                    await self._read(reply)
                rest = bytearray()
                async for part in reply.content.iter_any():
                    *whole, last = part.split(b"\n")
                    for line in whole:
                        rest += line
                        yield self._key.redacted_bytes(bytes(rest))
                        rest.clear()
                    rest += last
                    if len(rest) > MOST_BYTES:
                        raise broken(f"a line of the file has more than {MOST_BYTES // 2**20} MiB")
                yield self._key.redacted_bytes(bytes(rest))

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()
        # aiohttp closes TLS connections in the next turn of the loop.
        await asyncio.sleep(0)

    async def _read(self, reply: aiohttp.ClientResponse) -> Any:
        fine = reply.status in _FINE
        body = await _body_of(reply, MOST_BYTES if fine else _ERROR_BYTES)
        body = self._key.redacted_bytes(body)
        if not fine:
            raise from_status(
                reply.status, body.decode("utf-8", "replace"), seconds_of(reply.headers)
            )
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            start = one_line(body[:200].decode("utf-8", "replace"))
            what = f"begins with {start[:60]!r}" if start else "is empty"
            raise broken(f"the reply has status 200 and is no JSON; it {what}") from None

    @contextmanager
    def _faults(self, url: URL) -> Iterator[None]:
        try:
            # The connector looks up names alone: an address in numbers is judged here.
            self._hold.judge_name(url.raw_host or "")
            yield
        except HostNotAllowedError as error:
            raise not_allowed(error.host) from None
        except self._unconnected:
            raise broken("no connection could be made in time", worked=False) from None
        except self._refused as error:
            if isinstance(error.os_error, HostNotAllowedError):
                raise not_allowed(error.os_error.host) from None
            raise broken(_worded(error, self._key), worked=False) from None
        except TimeoutError:
            raise timed_out(self._timeout) from None
        except self._errors as error:
            raise broken(_worded(error, self._key)) from None


class HttpTransport:
    """Completions of one server, a request each. It is built in the event loop that uses it."""

    def __init__(
        self, route: Route, config: LiteLLMConfig, key: Secret, hold: Hold, *, logprobs: bool
    ) -> None:
        from yarl import URL

        self._config = config
        self._route = route
        self._logprobs = logprobs
        self._url = URL(route.url)
        self._limit = limit_for(route, config)
        self._connection = Connection(config.timeout, key, hold)

    async def call(self, request: Request) -> Completion:
        """One attempt at a completion. Raises CallError."""
        return await self._limit.tried(lambda name: self._once(request, name))

    async def _once(self, request: Request, name: Name) -> Completion:
        asked = body(request, self._route, self._config, logprobs=self._logprobs, limit=name)
        # The surrogates of broken text are no UTF-8: escapes can say them.
        value = await self._connection.post(self._url, json.dumps(asked).encode())
        wanted = self._logprobs and request.logprobs
        most = limit_of(request, self._config)
        return read(value, logprobs=wanted, stop=request.sampling.stop, limit=most)

    async def close(self) -> None:
        """Close all connections."""
        await self._connection.close()


def limit_for(route: Route, config: LiteLLMConfig) -> Limit:
    """OpenAI's own models take the new name alone; the servers of others know the old one best."""
    usual: Name = "max_completion_tokens" if route.base == OPENAI else "max_tokens"
    return Limit(usual, None if config.limit_as == "auto" else config.limit_as)


def body(
    request: Request, route: Route, config: LiteLLMConfig, *, logprobs: bool, limit: Name
) -> dict[str, Any]:
    """What is sent for a request: the fields of the protocol, and those that the config adds or takes out."""
    asked: dict[str, Any] = {
        "model": route.name,
        **fields(request, config, logprobs=logprobs, limit=limit),
    }
    asked.update(config.body)
    return {name: value for name, value in asked.items() if value is not None}


def _resolver(hold: Hold) -> Any:
    """Names in, addresses out, for allowed hosts alone; with the system's own look-up, which ``held`` watches too."""
    from aiohttp.abc import AbstractResolver, ResolveResult
    from aiohttp.resolver import ThreadedResolver

    class Held(AbstractResolver):
        def __init__(self) -> None:
            self._resolver = ThreadedResolver()

        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            hold.judge_name(host)
            return await self._resolver.resolve(host, port, family)

        async def close(self) -> None:
            await self._resolver.close()

    return Held()


async def _body_of(reply: aiohttp.ClientResponse, most: int) -> bytes:
    """The body, up to ``most`` bytes of an error; more than that of an answer is a fault."""
    whole = reply.status in _FINE
    length = reply.content_length
    if length is not None and length <= most:
        return await reply.read()
    parts: list[bytes] = []
    size = 0
    async for part in reply.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > most:
            reply.close()
            if whole:
                raise broken(f"the reply has more than {most // 2**20} MiB")
            break
    return b"".join(parts)[:most]


def _worded(error: Exception, key: Secret) -> str:
    """An error of the connection, for people: its kind is part of it, since some say nothing else."""
    said = one_line(key.redacted(str(error)))
    return f"the connection failed: {type(error).__name__}: {said}".rstrip(": ")
