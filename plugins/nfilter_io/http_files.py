"""Files over HTTP: one request, redirects to allowed hosts only, through a proxy if one is named, and no reply but the whole file."""

from __future__ import annotations

import re
import zlib
from collections.abc import Container, Iterator, Mapping
from contextlib import closing, contextmanager
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Final
from urllib.parse import quote, urljoin, urlsplit

from nfilter import AllowedHosts, first_line, plain
from nfilter_io.proxies import Proxy, proxy_for
from nfilter_io.transfers import COPY_IT, Advance, Remote, TransferError
from nfilter_io.web_pages import PAGE_START, is_page

_TIMEOUT: Final = 60.0  # seconds for the connection, and for each reading from it
_CHUNK: Final = 1 << 16
_MOST_REDIRECTS: Final = 10
_HEADERS: Final = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "nfilter"}
_VERSIONS: Final = ("content-md5", "digest", "etag", "last-modified")
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_PLAIN: Final = ("", "identity")
_GZIP: Final = ("gzip", "x-gzip")
_TUNNEL: Final = re.compile(r"Tunnel connection failed: (\d{3})")
"""How http.client says that a proxy opens no connection to a host over TLS."""


class RefusedHostError(Exception):
    """A redirect to a host that is not allowed; ``here``: from another machine to this one."""

    def __init__(self, host: str, *, here: bool) -> None:
        super().__init__(host)
        self.host = host
        self.here = here


@contextmanager
def http_file(
    url: str, query: str, allowed: Container[str], known: Mapping[str, str]
) -> Iterator[Remote]:
    """Ask for the file at ``url`` and yield it. Only the headers are read before ``save`` is called.

    Args:
        url: The address, without a query.
        query: Is sent to that address alone, and is in no error.
        allowed: The hosts that connections may go to.
        known: The version of which there is a copy, or empty; the server is asked not to send that again.

    Raises:
        TransferError: the file cannot be had.
        RefusedHostError: a redirect leads to a host that is not ``allowed``.
    """
    with _connected(url, query, allowed, known.get("etag", "")) as response:
        if response.status == 304:
            yield Remote(known, None, _nothing)
            return
        size = response.length
        told = {name: response.getheader(name) for name in _VERSIONS}
        found = {name: value for name, value in told.items() if value}
        version = {**found, "size": str(size)} if found else None

        def save(path: Path, advance: Advance) -> None:
            with path.open("wb") as out:
                body = _decoded(response, _received(response, size, advance))
                for data in _no_page(body, url, response.getheader("Content-Type") or ""):
                    out.write(data)

        yield Remote(version, size, save)


@contextmanager
def _connected(url: str, query: str, allowed: Container[str], tag: str) -> Iterator[HTTPResponse]:
    """Yield the reply of the last server to which redirects lead: the whole file, or that its entity tag still is ``tag``."""
    here = urlsplit(url).hostname in AllowedHosts()
    target, seen = f"{url}?{query}" if query else url, set[str]()
    while True:
        seen.add(target)
        proxy = proxy_for(target)
        connection = _connection(target, proxy)
        with closing(connection), closing(_reply(connection, target, tag, proxy)) as response:
            if proxy is not None and response.status == 407:
                raise TransferError(_wants_login(proxy))
            if response.status not in _REDIRECTS:
                if not (tag and response.status == 304):
                    _refuse_status(response.status, signed=bool(query))
                yield response
                return
            target = _next(target, response, allowed, here=here)
        if target in seen:
            raise TransferError(
                f"redirects in a circle, as servers do that ask for a login; {COPY_IT}"
            )
        if len(seen) > _MOST_REDIRECTS:
            raise TransferError(f"redirects more than {_MOST_REDIRECTS} times; {COPY_IT}")


def _connection(target: str, proxy: Proxy | None) -> HTTPConnection:
    parts = urlsplit(target)
    cls = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    # Without a port, http.client takes the last group of an IPv6 address for one.
    host, port = parts.hostname or "", parts.port or cls.default_port
    if proxy is None:
        return cls(host, port, timeout=_TIMEOUT)
    connection = cls(proxy.host, proxy.port, timeout=_TIMEOUT)
    if (
        cls is HTTPSConnection
    ):  # the certificate is then that of the host, and the proxy sees no more than its name
        connection.set_tunnel(host, port, headers=dict(proxy.headers))
    return connection


def _nothing(path: Path, advance: Advance) -> None:
    """Copy nothing: there is a copy of this version."""


def _reply(connection: HTTPConnection, target: str, tag: str, proxy: Proxy | None) -> HTTPResponse:
    parts = urlsplit(target)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = _HEADERS | ({"If-None-Match": tag} if tag else {})
    if proxy is not None and parts.scheme == "http":
        path, headers = f"http://{parts.netloc}{path}", {**headers, **proxy.headers}
    try:
        connection.request("GET", path, headers=headers)
        return connection.getresponse()
    except (OSError, HTTPException, ValueError) as error:
        raise _unreachable(error, connection.host, proxy) from error


def _wants_login(proxy: Proxy) -> str:
    return (
        f"the proxy {plain(proxy.host)} wants a user and a password, or others than it got; put them before the host in "
        f"{proxy.variable}: USER:PASSWORD@{plain(proxy.host)}:{proxy.port}"
    )


def _unreachable(error: Exception, host: str, proxy: Proxy | None) -> TransferError:
    """Return the error of a connection. What a server wrote is not in it: that may repeat the query."""
    told = "what came is not HTTP"
    if isinstance(error, OSError):
        told = plain(error.strerror or first_line(error))
    if proxy is not None:
        refused = _TUNNEL.match(str(error))
        if refused is not None and refused[1] == "407":
            return TransferError(_wants_login(proxy))
        told = f"it answers {refused[1]}" if refused is not None else told
        return TransferError(
            f"cannot be fetched through the proxy {plain(host)}: {told}; {proxy.advice}"
        )
    return TransferError(f"cannot be fetched: {plain(host)}: {told}; check `path` and the network")


def _next(target: str, response: HTTPResponse, allowed: Container[str], *, here: bool) -> str:
    """Return the address to which a reply redirects.

    ``here``: whether the first address is of this machine; another machine cannot redirect to this one.
    """
    location = (response.getheader("Location") or "").strip().encode("latin-1", "replace")
    try:
        parts = urlsplit(urljoin(target, quote(location, safe="!#$%&'()*+,/:;=?@[]~")))
        readable = bool(location) and parts.scheme in ("http", "https") and parts.port != 0
        host = parts.hostname if readable else None
    except ValueError:
        host = None
    if not host:
        raise TransferError(
            f"redirects to what is no address of a file over HTTP; check `path`, or {COPY_IT}"
        )
    if parts.scheme == "http" and urlsplit(target).scheme == "https":
        raise TransferError(
            f"redirects from https to http at {plain(host)}, where others on the way can read and change the file; {COPY_IT}"
        )
    of_this_machine = host in AllowedHosts()
    if host not in allowed or (of_this_machine and not here):
        raise RefusedHostError(host, here=of_this_machine)
    return parts._replace(fragment="").geturl()


def _refuse_status(status: int, *, signed: bool) -> None:
    """Raise TransferError unless the reply is the whole file; ``signed``: a query was sent."""
    known = {each.value: f"{each.value} {each.phrase}" for each in HTTPStatus}
    told = known.get(status, str(status))
    if status == 200:
        return
    if status == 206:
        raise TransferError(
            f"the server sends a part of the file ({told}), and the whole was asked for; {COPY_IT}"
        )
    if status in (404, 410):
        raise TransferError("there is no such file; check `path`")
    if signed and status in (400, 401, 403):
        raise TransferError(
            f"access is denied ({told}); a signed query ends after some time: export a new one in the variable that `query_env` "
            f"names, or {COPY_IT}"
        )
    if status in (401, 403):
        raise TransferError(
            f"access is denied ({told}); for an address with a signed query, type `query_env: NFILTER_QUERY` and export that "
            f"variable with what follows the ?, or {COPY_IT}"
        )
    raise TransferError(
        f"cannot be fetched: the server answers {told}; check `path` and the network"
    )


def _received(response: HTTPResponse, size: int | None, advance: Advance) -> Iterator[bytes]:
    """Yield the body as it is sent; raise TransferError where it ends early."""
    count = 0
    while True:
        try:
            data = response.read(_CHUNK)
        except HTTPException as error:  # the last of the chunks that HTTP marks did not come
            raise _cut(count, "") from error
        except OSError as error:
            told = plain(error.strerror or first_line(error))
            raise _cut(count, f": {told}") from error
        if not data:
            break
        count += len(data)
        advance(len(data))
        yield data
    if size is not None and count != size:
        raise _cut(count, f" of the {size} that the server names")


def _cut(count: int, told: str) -> TransferError:
    return TransferError(
        f"{count} bytes came{told}, and not the whole file; run the same command again, or {COPY_IT}"
    )


def _decoded(response: HTTPResponse, body: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the file: the body, unpacked if the server compressed it although nobody asked it to."""
    coding = (response.getheader("Content-Encoding") or "").strip().lower()
    if coding in _PLAIN:
        return body
    if coding in _GZIP:
        return _unpacked(body)
    raise TransferError(
        f"the server sends it compressed ({plain(coding)[:40]}), which nobody asked for; {COPY_IT}"
    )


def _no_page(body: Iterator[bytes], target: str, kind: str) -> Iterator[bytes]:
    """Yield the body; raise TransferError before the first of it if it is a web page."""
    start = b""
    for data in body:
        start += data
        if len(start) >= PAGE_START:
            break
    if is_page(start, kind):
        shown = (
            "; an address with /blob/ shows the file in a page: type /raw/ (GitHub) or /resolve/ (the hub) in its place"
            if "/blob/" in target
            else ""
        )
        raise TransferError(
            "the server sends a web page (HTML) and not the file, as for a login or a notice; open the address in a browser, and if "
            f"that shows the file, {COPY_IT}{shown}"
        )
    yield start
    yield from body


def _unpacked(body: Iterator[bytes]) -> Iterator[bytes]:
    member = zlib.decompressobj(31)  # gzip; a file may have several members
    try:
        for data in body:
            while data:
                if member.eof:
                    member = zlib.decompressobj(31)
                yield member.decompress(data)
                data = member.unused_data  # noqa: PLW2901
    except zlib.error as error:
        raise TransferError(f"the server sends it compressed, and damaged; {COPY_IT}") from error
    if not member.eof:
        raise TransferError(f"the server sends it compressed, and cut short; {COPY_IT}")
