"""The fast path: one pooled aiohttp session to an OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from nfilter import Completion, Request
from nfilter_litellm.config import OPENAI, LiteLLMConfig, Route
from nfilter_litellm.failures import broken, from_status, one_line, seconds_of, timed_out
from nfilter_litellm.keys import Secret
from nfilter_litellm.protocol import fields, read

if TYPE_CHECKING:
    import aiohttp

MOST_BYTES = 16 * 2**20
_ERROR_BYTES = 2**16


class HttpTransport:
    """Requests to one address, and to no other: redirects are not followed, the environment's proxies and netrc not
    read. A reply may have ``MOST_BYTES`` and take ``timeout`` seconds.

    It is built in the event loop that uses it.
    """

    def __init__(self, route: Route, config: LiteLLMConfig, key: Secret, *, logprobs: bool) -> None:
        import aiohttp
        from yarl import URL

        self._config = config
        self._key = key
        self._logprobs = logprobs
        self._name = route.name
        self._url = URL(route.url)
        # OpenAI's own models take this name alone; the servers of others know the old one best.
        self._limit = "max_completion_tokens" if route.base == OPENAI else "max_tokens"
        self._unconnected = aiohttp.ConnectionTimeoutError
        self._refused = aiohttp.ClientConnectorError
        self._errors: tuple[type[Exception], ...] = (aiohttp.ClientError, OSError, ValueError)
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if key.value is not None:
            headers["Authorization"] = f"Bearer {key.value}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, keepalive_timeout=30),
            timeout=aiohttp.ClientTimeout(total=config.timeout, sock_connect=min(20, config.timeout)),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )  # fmt: skip

    async def call(self, request: Request) -> Completion:
        """One attempt at a completion. Raises CallError."""
        wanted = self._logprobs and request.logprobs
        data = self._body(request)
        try:
            async with self._session.post(self._url, data=data, allow_redirects=False) as reply:
                status, headers = reply.status, reply.headers
                body = await _body_of(reply, MOST_BYTES if status == 200 else _ERROR_BYTES)
        except self._unconnected:
            raise broken("no connection could be made in time", worked=False) from None
        except self._refused as error:
            raise broken(self._key.redacted(_worded(error)), worked=False) from None
        except TimeoutError:
            raise timed_out(self._config.timeout) from None
        except self._errors as error:
            raise broken(self._key.redacted(_worded(error))) from None
        body = self._key.redacted_bytes(body)
        if status != 200:
            raise from_status(status, body.decode("utf-8", "replace"), seconds_of(headers))
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            start = one_line(body[:200].decode("utf-8", "replace"))
            what = f"begins with {start[:60]!r}" if start else "is empty"
            raise broken(f"the reply has status 200 and is no JSON; it {what}") from None
        return read(value, logprobs=wanted)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()
        # aiohttp closes TLS connections in the next turn of the loop.
        await asyncio.sleep(0)

    def _body(self, request: Request) -> bytes:
        asked: dict[str, Any] = {"model": self._name, **fields(request, self._config, logprobs=self._logprobs)}  # fmt: skip
        if self._limit != "max_tokens":
            asked[self._limit] = asked.pop("max_tokens")
        asked.update(self._config.body)
        # The surrogates of broken text are no UTF-8: escapes can say them.
        return json.dumps({name: value for name, value in asked.items() if value is not None}).encode()  # fmt: skip


async def _body_of(reply: aiohttp.ClientResponse, most: int) -> bytes:
    """The body, up to ``most`` bytes of an error; more than that of an answer is a fault."""
    whole = reply.status == 200
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


def _worded(error: Exception) -> str:
    """An error of the connection, for people: its kind is part of it, since some say nothing else."""
    return f"the connection failed: {type(error).__name__}: {one_line(str(error))}".rstrip(": ")
