"""A mirror of the hub that serves one dataset repository from memory: what `datasets` and `huggingface_hub` ask of one."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class Mirror:
    """The repository ``name`` with ``files``; ``asked`` has the path of every request. ``files`` may be replaced."""

    def __init__(self, name: str, files: Mapping[str, bytes]) -> None:
        self.name = name
        self.files = dict(files)
        self.asked: list[str] = []

    @property
    def commit(self) -> str:
        told = json.dumps({name: data.hex() for name, data in sorted(self.files.items())})
        return hashlib.sha1(told.encode(), usedforsecurity=False).hexdigest()

    def entry(self, name: str) -> dict[str, Any]:
        data = self.files[name]
        oid = hashlib.sha1(data, usedforsecurity=False).hexdigest()
        return {"type": "file", "path": name, "size": len(data), "oid": oid}

    def answer(self, url: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of one request."""
        path = unquote(urlsplit(url).path)
        api, files = f"/api/datasets/{self.name}", f"/datasets/{self.name}/resolve/"
        if path == api or path.startswith(f"{api}/revision/"):
            info = {
                "id": self.name, "sha": self.commit, "private": False, "tags": [], "downloads": 0,
                "siblings": [{"rfilename": name} for name in self.files],
            }  # fmt: skip
            return 200, {}, json.dumps(info).encode()
        if path.startswith(f"{api}/paths-info/"):
            wanted = parse_qs(body.decode()).get("paths") or json.loads(body or b"{}").get(
                "paths", []
            )
            found: list[Any] = [self.entry(name) for name in wanted if name in self.files]
            folders = {name.rpartition("/")[0] for name in self.files} - {""}
            found += [
                {"type": "directory", "path": name, "oid": "0"}
                for name in wanted
                if name in folders
            ]
            return 200, {}, json.dumps(found).encode()
        if path.startswith(f"{api}/tree/"):
            inside = path.removeprefix(f"{api}/tree/").partition("/")[2]
            names = [name for name in self.files if not inside or name.startswith(f"{inside}/")]
            found = [self.entry(name) for name in names]
            folders = {name.rpartition("/")[0] for name in names} - {"", inside}
            found += [{"type": "directory", "path": name, "oid": "0"} for name in sorted(folders)]
            return 200, {}, json.dumps(found).encode()
        name = path.removeprefix(files).partition("/")[2] if path.startswith(files) else ""
        if name in self.files:
            data, etag = self.files[name], self.entry(name)["oid"]
            headers = {
                "ETag": f'"{etag}"',
                "X-Repo-Commit": self.commit,
                "Content-Type": "text/plain",
            }
            return 200, {**headers, "Content-Length": str(len(data))}, data
        missing = "EntryNotFound" if path.startswith(files) else "RepoNotFound"
        return 404, {"X-Error-Code": missing}, b"{}"


@contextmanager
def serving(mirror: Mirror) -> Iterator[str]:
    """Serve it on this machine; yield the address for ``HF_ENDPOINT``."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            mirror.asked.append(f"{self.command} {self.path}")
            status, headers, out = mirror.answer(self.path, body)
            self.send_response(status)
            for key, value in {"Content-Length": str(len(out)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(out if self.command != "HEAD" else b"")

        do_GET = do_HEAD = do_POST = answer

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
