"""Files over HTTP through the proxy that the environment names: what it is asked, what it does not see, and where it is not used."""

from __future__ import annotations

import select
import socket
from base64 import b64decode
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from nfilter import AllowedHosts
from nfilter_io.remote import fetch, local_path
from tests.plugins.nfilter_io.file_server import Answer, Files, serving
from tests.plugins.nfilter_io.test_http_files import BODY, copied, refused, secure

DATA = "data.example.org"
ALLOWED = AllowedHosts(frozenset({DATA}))


class ProxyServer:
    """A proxy: answers addresses from ``answers``, and connects every tunnel to ``port`` of this machine; ``asked`` has all requests."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.logins: list[str | None] = []
        self.refuses: int | None = None
        self.port = 0
        self.address = ""


@pytest.fixture
def proxy() -> Iterator[ProxyServer]:
    told = ProxyServer()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            told.asked.append(f"{self.command} {self.path}")
            told.logins.append(self.headers.get("Proxy-Authorization"))
            found = told.answers.get(self.path, Answer(status=404))
            if told.refuses is not None:
                found = Answer(status=told.refuses)
            self.send_response(found.status)
            for name, value in {**found.headers, "Content-Length": str(len(found.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(found.body)

        def tunnel(self) -> None:
            if told.refuses is not None:
                return self.answer()
            told.asked.append(f"{self.command} {self.path}")
            told.logins.append(self.headers.get("Proxy-Authorization"))
            self.send_response(200)
            self.end_headers()
            with closing(socket.create_connection(("127.0.0.1", told.port))) as there:
                ends = {self.connection: there, there: self.connection}
                while True:
                    for one in select.select(list(ends), [], [])[0]:
                        data = one.recv(1 << 16)
                        if not data:
                            return None
                        ends[one].sendall(data)

        do_GET = answer
        do_CONNECT = tunnel

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    told.address = f"127.0.0.1:{server.server_address[1]}"
    yield told
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def files() -> Iterator[Files]:
    with serving() as served:
        yield served


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("start", ["http://", "http://ann:p%40ss@", ""])
def test_a_file_over_http_is_asked_of_the_proxy(
    name: str, start: str, proxy: ProxyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://{DATA}/rows.jsonl"
    proxy.answers[url] = Answer(BODY)
    monkeypatch.setenv(name, f"{start}{proxy.address}")
    fetch(url, ALLOWED)
    assert local_path(url, Path()).read_bytes() == BODY
    assert proxy.asked == [f"GET {url}"]
    (login,) = proxy.logins
    known = None if login is None else b64decode(login.removeprefix("Basic "))
    assert known == (b"ann:p@ss" if "ann" in start else None)


def test_over_tls_the_proxy_sees_the_host_alone(
    proxy: ProxyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str | None]] = []

    def answer(self: Any) -> None:
        seen.append((self.path, self.headers.get("Proxy-Authorization")))
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    url = f"https://{DATA}/rows.jsonl"
    with secure(tmp_path, answer) as there:
        proxy.port = int(there.rsplit(":", 1)[1])
        monkeypatch.setenv("HTTPS_PROXY", f"http://ann:pass@{proxy.address}")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        monkeypatch.setenv("NFILTER_QUERY", "sig=canary")
        fetch(url, ALLOWED, query_env="NFILTER_QUERY")
    assert local_path(url, Path(), "NFILTER_QUERY").read_bytes() == BODY
    assert proxy.asked == [f"CONNECT {DATA}:443"]
    assert proxy.logins[0] is not None
    assert seen == [("/rows.jsonl?sig=canary", None)]


def test_a_host_that_is_not_allowed_is_not_asked_through_a_proxy_either(
    proxy: ProxyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", f"http://{proxy.address}")
    assert "that host is not allowed" in refused(f"http://{DATA}/rows.jsonl")
    assert proxy.asked == []
    for location, why in (
        ("http://evil.invalid/rows.jsonl", "leads to evil.invalid; that host is not allowed"),
        ("http://localhost/rows.jsonl", "leads to localhost, this machine"),
    ):
        proxy.asked.clear()
        proxy.answers[f"http://{DATA}/rows.jsonl"] = Answer(status=302, headers={"Location": location})  # fmt: skip
        assert why in refused(f"http://{DATA}/rows.jsonl", ALLOWED)
        assert proxy.asked == [f"GET http://{DATA}/rows.jsonl"]


def test_this_machine_and_hosts_of_no_proxy_are_asked_directly(
    proxy: ProxyServer, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.answers["/rows.jsonl"] = Answer(BODY)
    monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.address}")
    assert copied(f"{files.url}/rows.jsonl") == BODY
    real = socket.getaddrinfo

    def lookup(host: Any, *args: Any, **kwargs: Any) -> Any:
        return real("127.0.0.1" if host == DATA else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    url = f"http://{DATA}:{files.url.rsplit(':', 1)[1]}/rows.jsonl"
    for value in ("example.org", f"other, .{DATA}", "*"):
        monkeypatch.setenv("NO_PROXY", value)
        fetch(url, ALLOWED)
    assert proxy.asked == []
    assert len(files.asked) == 4
    monkeypatch.setenv("NO_PROXY", "example.com")
    with pytest.raises(Exception, match="there is no such file"):
        fetch(url, ALLOWED)
    assert proxy.asked == [f"GET {url}"]


@pytest.mark.types(
    "put them before the host in «»: USER:PASSWORD@«»", "check «», or if «» is reached without it, type: export NO_PROXY=«»",
    "the address of a proxy over HTTP; type: export «»=http://HOST:PORT",
)  # fmt: skip
def test_a_proxy_that_does_not_serve_is_named_and_its_password_is_not(
    proxy: ProxyServer, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = proxy.address
    for scheme in ("http", "https"):
        variable = f"{scheme.upper()}_PROXY"
        url = f"{scheme}://{DATA}/rows.jsonl"
        monkeypatch.setenv(variable, f"http://ann:canary@{address}")
        proxy.refuses = 407
        told = refused(url, ALLOWED)
        assert told.endswith(
            "the proxy 127.0.0.1 wants a user and a password, or others than it got; put them before the host in "
            f"{variable}: USER:PASSWORD@{address}"
        )
        proxy.refuses = 503
        other = refused(url, ALLOWED)
        monkeypatch.setenv(variable, "http://ann:canary@127.0.0.1:1")
        lost = refused(url, ALLOWED)
        assert lost.endswith(
            "cannot be fetched through the proxy 127.0.0.1: Connection refused; check "
            f"{variable}, or if {DATA} is reached without it, type: export NO_PROXY={DATA}"
        )
        for value in ("socks5://ann:canary@127.0.0.1:1080", "http://", "http://a:canary@h:port"):
            monkeypatch.setenv(variable, value)
            odd = refused(url, ALLOWED)
            assert odd.endswith(
                f"{variable} does not hold the address of a proxy over HTTP; type: export {variable}=http://HOST:PORT, or for this host "
                f"alone: export NO_PROXY={DATA}"
            )
            assert "canary" not in told + other + lost + odd
    assert "cannot be fetched through the proxy 127.0.0.1: it answers 503" in other
    # What is typed: the host is then asked directly.
    monkeypatch.setenv("NO_PROXY", DATA)
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *a, **k: real("127.0.0.1" if host == DATA else host, *a, **k)
    )  # fmt: skip
    files.answers["/rows.jsonl"] = Answer(BODY)
    fetch(f"http://{DATA}:{files.url.rsplit(':', 1)[1]}/rows.jsonl", ALLOWED)
