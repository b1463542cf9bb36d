"""Files over HTTP: what is followed, what is sent, and which replies are no file."""

from __future__ import annotations

import gzip
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from nfilter import AllowedHosts, SourceError
from nfilter_io.remote import Copy, fetch, local_path, parse
from nfilter_io.sources import JsonLines
from tests.plugins.nfilter_io.file_server import Answer, Files, serving

HERE = AllowedHosts()
BODY = b"".join(b'{"prompt": "%d+1?", "response": "%d"}\n' % (n, n + 1) for n in range(30))
LARGE = BODY * 300


@pytest.fixture(autouse=True)
def _no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("NFILTER_ALLOW_HOSTS", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")  # tests of proxies name them


@pytest.fixture
def files() -> Iterator[Files]:
    with serving() as served:
        yield served


def refused(url: str, allowed: Any = HERE, **more: Any) -> str:
    """The error of a file that is not copied, and of which nothing stays."""
    with pytest.raises(SourceError) as caught:
        fetch(url, allowed, **more)
    query_env = more.get("query_env")
    with pytest.raises(SourceError, match="there is no copy"):
        local_path(url, Path(), query_env)
    assert not list(Copy.of(parse(url), query_env).folder.rglob("*rows*"))
    return str(caught.value)


def copied(url: str, **more: Any) -> bytes:
    fetch(url, HERE, **more)
    return local_path(url, Path(), more.get("query_env")).read_bytes()


class Bars:
    """Keeps what progress was shown: the total and the text of each bar, and its steps."""

    def __init__(self) -> None:
        self.shown: list[tuple[int | None, str, list[int]]] = []

    def __call__(self, total: int | None, text: str) -> Any:
        steps: list[int] = []
        self.shown.append((total, text, steps))
        return nullcontext(type("Bar", (), {"advance": lambda _, n=1: steps.append(n)})())


def test_the_bytes_that_come_are_shown(files: Files) -> None:
    bars = Bars()
    files.answers["/rows.jsonl"] = Answer(LARGE, {"ETag": "1"})
    assert copied(f"{files.url}/rows.jsonl", progress=bars) == LARGE
    ((total, text, steps),) = bars.shown
    assert (total, text) == (len(LARGE), "rows.jsonl from 127.0.0.1")
    assert sum(steps) == len(LARGE)
    assert len(steps) > 4
    # The same version is not copied, so there is nothing to show.
    copied(f"{files.url}/rows.jsonl", progress=bars)
    assert len(bars.shown) == 1
    assert files.replied == [200, 304]


def test_bytes_of_an_unknown_number_are_shown(files: Files) -> None:
    bars = Bars()
    files.answers["/rows.jsonl"] = Answer(LARGE, {"ETag": "1"}, length=-1)
    assert copied(f"{files.url}/rows.jsonl", progress=bars) == LARGE
    ((total, _, steps),) = bars.shown
    assert total is None
    assert sum(steps) == len(LARGE)


@pytest.mark.types("not the whole file; run the same command again")
@pytest.mark.parametrize("sent", [0, 200])
def test_a_download_that_ends_early_leaves_no_copy(sent: int, files: Files) -> None:
    url = f"{files.url}/rows.jsonl"
    files.answers["/rows.jsonl"] = Answer(BODY[:sent], {"ETag": "1"}, length=len(BODY))
    told = refused(url)
    assert told == (
        f"{url}: {sent} bytes came of the {len(BODY)} that the server names, and not the whole file; run the same command again, or "
        "copy the file to this machine and name it in `path`"
    )
    # The next download begins at the first byte: it cannot continue in another version.
    files.answers["/rows.jsonl"] = Answer(BODY[::-1], {"ETag": "2"})
    assert copied(url) == BODY[::-1]


def test_a_chunked_reply_without_its_end_leaves_no_copy(files: Files) -> None:
    url, chunk = f"{files.url}/rows.jsonl", b"%x\r\n%s\r\n" % (len(BODY), BODY)
    chunked = {"Transfer-Encoding": "chunked", "ETag": "1"}
    files.answers["/rows.jsonl"] = Answer(chunk, chunked, length=-1)
    assert "and not the whole file; run the same command again" in refused(url)
    files.answers["/rows.jsonl"] = Answer(chunk + b"0\r\n\r\n", chunked, length=-1)
    assert copied(url) == BODY


def test_a_part_of_the_file_is_not_taken_for_the_whole(files: Files) -> None:
    ranged = {"Content-Range": f"bytes 0-199/{len(BODY)}", "ETag": "1"}
    files.answers["/rows.jsonl"] = Answer(BODY[:200], ranged, 206)
    assert "sends a part of the file (206 Partial Content), and the whole" in refused(
        f"{files.url}/rows.jsonl"
    )


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (404, "there is no such file; check `path`"),
        (410, "there is no such file; check `path`"),
        (202, "the server answers 202 Accepted; check `path` and the network"),
        (204, "the server answers 204 No Content"),
        (304, "the server answers 304 Not Modified"),
        (503, "the server answers 503 Service Unavailable"),
        (799, "the server answers 799;"),
        (403, "access is denied (403 Forbidden); for an address with a signed query, type `query_env"),
    ],
)  # fmt: skip
def test_a_reply_that_is_no_file(status: int, why: str, files: Files) -> None:
    files.answers["/rows.jsonl"] = Answer(b"", {}, status)
    assert why in refused(f"{files.url}/rows.jsonl")


def test_a_file_that_the_server_compresses_is_unpacked(files: Files) -> None:
    url = f"{files.url}/rows.jsonl"
    packed = gzip.compress(BODY[:500]) + gzip.compress(BODY[500:])
    for n, coding in enumerate(("gzip", "x-gzip", " GZIP")):
        answer = Answer(packed, {"Content-Encoding": coding, "ETag": str(n)})
        files.answers["/rows.jsonl"] = answer
        assert copied(url) == BODY
    files.answers["/rows.jsonl"] = Answer(BODY, {"Content-Encoding": "identity"})
    assert copied(url) == BODY
    # A file that is itself compressed stays as it is.
    files.answers["/rows.gz"] = Answer(packed, {"Content-Type": "application/gzip"})
    assert copied(f"{files.url}/rows.gz") == packed


@pytest.mark.parametrize(
    ("coding", "body", "why"),
    [
        ("br", BODY, "the server sends it compressed (br), which nobody asked for; copy the file"),
        ("gzip, gzip", BODY, "the server sends it compressed (gzip, gzip)"),
        ("gzip", gzip.compress(BODY)[:-9], "the server sends it compressed, and cut short"),
        ("gzip", BODY, "the server sends it compressed, and damaged"),
        ("gzip", b"", "the server sends it compressed, and cut short"),
    ],
)
def test_a_compression_that_is_not_read(coding: str, body: bytes, why: str, files: Files) -> None:
    files.answers["/rows.jsonl"] = Answer(body, {"Content-Encoding": coding})
    assert why in refused(f"{files.url}/rows.jsonl")


def test_a_redirect_reaches_allowed_hosts_only(files: Files) -> None:
    files.answers["/rows.jsonl"] = Answer(BODY, {"ETag": "1"})
    for n, location in enumerate(("/rows.jsonl", "rows.jsonl#top", f"{files.url}/rows.jsonl")):
        files.answers[f"/{n}.jsonl"] = moved(location, 301 + n)
        assert copied(f"{files.url}/{n}.jsonl") == BODY
    files.answers["/away.jsonl"] = moved("http://evil.invalid/rows.jsonl?sig=canary")
    assert refused(f"{files.url}/away.jsonl") == (
        f"{files.url}/away.jsonl: leads to evil.invalid; that host is not allowed; if you trust it, add to the command: "
        "--allow-host 127.0.0.1 --allow-host evil.invalid, or export NFILTER_ALLOW_HOSTS=127.0.0.1,evil.invalid"
    )
    told = refused(f"{files.url}/away.jsonl", AllowedHosts(frozenset({"evil.invalid"})))
    assert "cannot be fetched: evil.invalid: " in told
    assert "canary" not in told


def moved(location: str, status: int = 302) -> Answer:
    return Answer(status=status, headers={"Location": location})


@pytest.mark.parametrize(
    "location",
    ["", "ftp://127.0.0.1/rows.jsonl", "http://[::1/rows.jsonl", "http://127.0.0.1:99999/x", "file:///etc/passwd"],
)  # fmt: skip
def test_a_redirect_to_no_address_of_a_file(location: str, files: Files) -> None:
    files.answers["/rows.jsonl"] = moved(location)
    assert "redirects to what is no address of a file over HTTP" in refused(
        f"{files.url}/rows.jsonl"
    )


@pytest.mark.parametrize(
    "location",
    ["//evil.invalid/x", "http://127.0.0.1\\@evil.invalid/x", "http://me:canary@evil.invalid/x", "http://evil.invalid:80#@127.0.0.1/"],
)  # fmt: skip
def test_a_host_in_a_redirect_is_the_one_that_is_asked(location: str, files: Files) -> None:
    files.answers["/rows.jsonl"] = moved(location)
    told = refused(f"{files.url}/rows.jsonl")
    assert "leads to evil.invalid; that host is not allowed" in told
    assert "canary" not in told


@pytest.mark.parametrize("host", ["::1", "2001:db8::a", "2001:db8::1:443"])
def test_an_ipv6_address_without_a_port_is_the_whole_host(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last group is no port: another machine, or another port of this one, would be asked."""
    asked: list[tuple[Any, ...]] = []

    def refuse(address: tuple[Any, ...], *_: Any, **__: Any) -> socket.socket:
        asked.append(address)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "create_connection", refuse)
    allowed = AllowedHosts(frozenset({host}))
    told = refused(f"http://[{host}]/rows.jsonl", allowed)
    assert f"cannot be fetched: {host}: Connection refused" in told
    refused(f"https://[{host}]/rows.jsonl", allowed)
    assert asked == [(host, 80), (host, 443)]


def test_redirects_in_a_circle(files: Files) -> None:
    for a, b in (("a", "b"), ("b", "c"), ("c", "a")):
        files.answers[f"/{a}"] = moved(f"/{b}")
    assert refused(f"{files.url}/a").endswith(
        "/a: redirects in a circle, as servers do that ask for a login; copy the file to this machine and name it in `path`"
    )
    assert len(files.asked) == 3
    for n in range(40):
        files.answers[f"/{n}"] = moved(f"/{n + 1}")
    assert "redirects more than 10 times" in refused(f"{files.url}/0")
    files.answers["/10"] = Answer(BODY)
    assert copied(f"{files.url}/0") == BODY


def test_another_machine_cannot_redirect_to_this_one(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(files.url.rsplit(":", 1)[1])
    files.answers["/rows.jsonl"] = moved(f"{files.url}/secret.jsonl")
    files.answers["/secret.jsonl"] = Answer(BODY, {"ETag": "1"})
    real = socket.getaddrinfo

    def lookup(host: Any, *args: Any, **kwargs: Any) -> Any:
        return real("127.0.0.1" if host == "data.example.org" else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    allowed = AllowedHosts(frozenset({"data.example.org"}))
    told = refused(f"http://data.example.org:{port}/rows.jsonl", allowed)
    assert "leads to 127.0.0.1, this machine" in told
    assert not any("secret" in asked for asked in files.asked)


@contextmanager
def secure(folder: Path, answer: Callable[[Any], None]) -> Iterator[str]:
    """A server over TLS, whose certificate this process trusts if SSL_CERT_FILE names it."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,DNS:data.example.org", "-keyout", key, "-out", cert],
        capture_output=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    handler = type("Handler", (BaseHTTPRequestHandler,), {"do_GET": answer, "log_message": lambda *_: None})  # fmt: skip
    server = HTTPServer(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"https://localhost:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_redirect_from_https_to_http_is_refused(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.answers["/rows.jsonl"] = Answer(BODY)

    def answer(self: Any) -> None:
        self.send_response(302 if "away" in self.path else 200)
        self.send_header("Location", f"{files.url}/rows.jsonl")
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    with secure(tmp_path, answer) as url:
        told = refused(f"{url}/rows.jsonl")
        assert "cannot be fetched: localhost: " in told
        assert "certificate verify failed" in told
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        assert copied(f"{url}/rows.jsonl") == BODY
        told = refused(f"{url}/away.rows.jsonl")
    assert "redirects from https to http at 127.0.0.1, where others on the way can read" in told
    assert files.asked == []


def test_what_is_not_http(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                told = connection.recv(1 << 16)
                connection.sendall(b"SSH-2.0-" + told.split()[1] + b"\r\n")

        thread = Thread(target=answer, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/rows.jsonl"
        assert ": what came is not HTTP; check `path` and the network" in refused(url)
        thread.join()
    assert "cannot be fetched: 127.0.0.1: Connection refused; check `path`" in refused(url)


@pytest.mark.types("the file to this machine and name it in `path`")
def test_a_file_that_was_copied_by_hand(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(BODY)
    config = JsonLines.Config(path="rows.jsonl")
    assert not list(JsonLines.problems(config, tmp_path))
    assert len(list(JsonLines(config, tmp_path).read())) == 30


SIGNED = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AK%2F2026&X-Amz-Signature=canary"


def test_a_query_is_sent_to_its_address_alone(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    for given in (SIGNED, f"?{SIGNED}", f" {SIGNED}\n"):
        files.answers = {f"/rows.jsonl?{SIGNED}": Answer(BODY)}
        monkeypatch.setenv("NFILTER_QUERY_A", given)
        assert copied(f"{files.url}/rows.jsonl", query_env="NFILTER_QUERY_A") == BODY
    files.asked.clear()
    files.answers = {
        f"/moved.jsonl?{SIGNED}": moved("/rows.jsonl"),
        "/rows.jsonl": Answer(BODY),
    }
    assert copied(f"{files.url}/moved.jsonl", query_env="NFILTER_QUERY_A") == BODY
    assert files.asked == [f"GET /moved.jsonl?{SIGNED}", "GET /rows.jsonl"]


def test_a_new_signature_reads_the_same_copy_and_another_variable_another(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{files.url}/rows.jsonl"
    files.answers = {
        "/rows.jsonl?id=1&sig=a": Answer(BODY, {"ETag": "1"}),
        "/rows.jsonl?id=1&sig=b": Answer(BODY, {"ETag": "1"}),
        "/rows.jsonl?id=2": Answer(BODY[::-1], {"ETag": "2"}),
    }
    for query in ("id=1&sig=a", "id=1&sig=b"):
        monkeypatch.setenv("NFILTER_QUERY_A", query)
        assert copied(url, query_env="NFILTER_QUERY_A") == BODY
    assert files.replied == [200, 304]
    # Training rows and test rows may differ by their queries alone.
    monkeypatch.setenv("NFILTER_QUERY_B", "id=2")
    assert copied(url, query_env="NFILTER_QUERY_B") == BODY[::-1]
    assert local_path(url, Path(), "NFILTER_QUERY_A").read_bytes() == BODY
    with pytest.raises(SourceError, match="there is no copy"):
        local_path(url, Path())


@pytest.mark.types(
    "export a new one in the variable that `query_env`", "for an address with a signed query, type `query_env: NFILTER_QUERY`",
    "which is not set; type: export", "holds «»; type: export",
)  # fmt: skip
def test_a_query_that_is_missing_wrong_or_has_ended(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, name = f"{files.url}/rows.jsonl", "NFILTER_QUERY"
    files.answers = {f"/rows.jsonl?{SIGNED}": Answer(BODY)}
    assert "/rows.jsonl: there is no such file" in refused(url)
    told = refused(url, query_env=name)
    assert (
        f"`query_env` names {name}, which is not set; type: export {name}='...' with what" in told
    )
    for wrong, what in ((f"{url}?{SIGNED}", "a whole address"), (f"{SIGNED} canary", "a space")):
        monkeypatch.setenv(name, wrong)
        told = refused(url, query_env=name)
        assert f"the environment variable {name} holds {what}" in told
        assert "canary" not in told
    for status in (400, 401, 403):
        files.answers[f"/rows.jsonl?{SIGNED}x"] = Answer(SIGNED.encode(), {"X": SIGNED}, status)
        monkeypatch.setenv(name, f"{SIGNED}x")
        told = refused(url, query_env=name)
        assert "a signed query ends after some time: export a new one in the variable" in told
        assert "canary" not in told
    monkeypatch.setenv(name, SIGNED)
    assert copied(url, query_env=name) == BODY
    # A copy that is there is named, for the day after.
    monkeypatch.delenv(name)
    with pytest.raises(SourceError, match="or name the copy of an earlier run: path: ") as caught:
        fetch(url, HERE, query_env=name)
    assert Path(str(caught.value).rsplit("path: ", 1)[1]).read_bytes() == BODY
