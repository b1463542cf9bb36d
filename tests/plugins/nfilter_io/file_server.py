"""A server on this machine that answers each path with a status, headers and a body of the test's choice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answer:
    """``length`` is the length that the header names, by default that of ``body``; below 0 no header names it."""

    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200
    length: int | None = None


@dataclass
class Files:
    """What is served by path; the method and path of every request, with its query; the status of every reply."""

    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    replied: list[int] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving() -> Iterator[Files]:
    files = Files()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            files.asked.append(f"{self.command} {self.path}")
            told = files.answers.get(self.path, Answer(status=404))
            tag = told.headers.get("ETag")
            if tag is not None and self.headers.get("If-None-Match") == tag:
                told = Answer(b"", {"ETag": tag}, 304)
            files.replied.append(told.status)
            length = len(told.body) if told.length is None else told.length
            self.send_response(told.status)
            for key, value in {"Content-Length": str(length), **told.headers}.items():
                if key != "Content-Length" or length >= 0:
                    self.send_header(key, value)
            self.end_headers()
            self.wfile.write(told.body)

        do_GET = answer

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    files.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield files
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
