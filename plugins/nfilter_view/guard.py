"""Access control of the page: loopback only, one origin, a token, no content from other hosts."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

TOKEN: Final = b"x-nfilter-token"
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS: Final = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}


class Guard:
    """Rejects requests that another site could have caused, before a route handles them.

    - Host is this server's address: other names are rejected (DNS rebinding).
    - Origin and Sec-Fetch-Site, if a browser sends them, are those of the page.
    - ``/api/`` needs the token in a header, which no other origin can set: there is no CORS answer.

    The page itself has no secret: the token is in the fragment of its address, which browsers do not send.
    """

    def __init__(self, app: App, *, token: str, port: int) -> None:
        self._app = app
        self._token = token.encode()
        self._hosts = frozenset(f"{name}:{port}".encode() for name in ("127.0.0.1", "localhost"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 400 or 403."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await _refuse(send, *refusal)
            return

        async def guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                own = {name.encode() for name in HEADERS}
                kept = [
                    (name, value) for name, value in message["headers"] if name.lower() not in own
                ]
                message["headers"] = [*kept, *_headers()]
            await send(message)

        await self._app(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        found: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            found.setdefault(name.lower(), []).append(value)
        hosts = found.get(b"host", [])
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return (
                400,
                "this is not the name of the server; open the address that nfilter view printed",
            )
        origins = found.get(b"origin", [])
        if any(
            origin.lower() not in {b"http://" + host for host in self._hosts} for origin in origins
        ):
            return 403, "requests of other sites are refused"
        if any(site not in (b"same-origin", b"none") for site in found.get(b"sec-fetch-site", [])):
            return 403, "requests of other sites are refused"
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return 405, "this method is not used here"
        if str(scope["path"]).startswith("/api/"):
            given = found.get(TOKEN, [])
            if len(given) != 1 or not hmac.compare_digest(given[0], self._token):
                return (
                    403,
                    "the token is missing or wrong; open the address that nfilter view printed",
                )
        return None


def _headers() -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in HEADERS.items()]


async def _refuse(send: Send, status: int, why: str) -> None:
    body = f"{why}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_headers()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
