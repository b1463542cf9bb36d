"""OpenAI's files and batches for the model server. A batch ends after a number of status requests, not after a time.

Its lines have the faults of the server's script; its own script determines how the batch ends::

    with ModelServer(Script(faults={"refusal": 0.1}), batches=BatchScript(looks=3, ends=["expired"])) as server:
        ...
        assert len(server.batches.made) == 2
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.model_server.faults import Plan, completion, content_of, error_body

if TYPE_CHECKING:
    from aiohttp import web

_BROKEN = frozenset({"hang", "reset", "truncated", "empty_body", "html", "drip", "redirect"})
_ENDS = ("completed", "expired", "cancelled", "failed")
_PLACES = ("upload", "create", "look", "list", "content")
_CONTENTS = ("html", "foreign", "endless", "drip")


@dataclass(frozen=True, slots=True)
class BatchScript:
    """The behaviour of batches.

    A batch ends at the ``looks``-th status request. ``ends`` are the final states of the first batches (``completed``;
    ``expired`` and ``cancelled`` with half of the lines answered; ``failed`` with none); all others complete. ``lost`` is the
    share of lines, in [0, 1], that are in no file; ``shuffled`` changes the order of lines. Without ``listed`` batches cannot be
    listed. A file has at most ``most_lines`` lines.

    ``broken`` has faulty replies by place. For ``upload``, ``create``, ``look`` and ``list`` these are fields that replace those
    of the reply, the status of an error (with the Retry-After of the server's script), or a list that replaces the reply. The
    ``content`` of a file is a page (``html``), lines of another batch (``foreign``), endless empty lines (``endless``), or one
    blank at a time (``drip``).
    """

    looks: int = 1
    ends: Sequence[str] = ()
    lost: float = 0.0
    shuffled: bool = False
    listed: bool = True
    most_lines: int = 50_000
    broken: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.ends) - set(_ENDS)):
            raise ValueError(f"no end {unknown[0]!r}; there are: {', '.join(_ENDS)}")
        if unknown := sorted(set(self.broken) - set(_PLACES)):
            raise ValueError(f"no place {unknown[0]!r}; there are: {', '.join(_PLACES)}")
        if self.broken.get("content", "html") not in _CONTENTS:
            raise ValueError(f"no content {self.broken['content']!r}; there are: {', '.join(_CONTENTS)}")  # fmt: skip


class Batches:
    """The files and batches of one server; ``made`` has every batch in order, as in replies.

    ``looked`` counts status requests, ``pieces`` the parts sent of endless contents.
    """

    def __init__(self, script: BatchScript, plan: Plan) -> None:
        self.script = script
        self.files: dict[str, bytes] = {}
        self.made: list[dict[str, Any]] = []
        self.looked = 0
        self.pieces = 0
        self._plan = plan

    async def answer(self, request: web.BaseRequest, now: float) -> web.StreamResponse | None:
        """The reply to a request under /v1/files or /v1/batches; None for any other. ``now`` is as in ``Plan.decide``."""
        from aiohttp import web

        if not request.path.startswith(("/v1/files", "/v1/batches")):
            return None
        key = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self._plan.script.key not in (None, key):
            status, body = error_body("unauthorized", key)
            return web.json_response(body, status=status)
        if request.method == "POST":
            upload = request.path == "/v1/files"
            return await self._upload(request) if upload else self._create(await request.read())
        _, kind, *rest = request.path.strip("/").split("/")
        if kind == "files" and rest[1:] == ["content"] and rest[0] in self.files:
            return await self._content(request, self.files[rest[0]])
        place = "look" if rest else "list"
        found: dict[str, Any] | None = None
        if kind == "batches" and rest:
            batch = next((batch for batch in self.made if batch["id"] == rest[0]), None)
            found = self._look(batch, key, now) if batch is not None else None
        elif kind == "batches" and self.script.listed:
            found = self._list(request.query.get("after"))
        if found is None:
            return web.json_response(_error("not_found", "No such object", None), status=404)
        return self._reply(place, found)

    def _reply(self, place: str, value: Mapping[str, Any]) -> web.StreamResponse:
        from aiohttp import web

        wrong = self.script.broken.get(place, {})
        if isinstance(wrong, int):
            after = self._plan.script.retry_after * self._plan.script.scale
            body = _error("server_error", "This does not work now", None)
            return web.json_response(body, status=wrong, headers={"Retry-After": f"{after:g}"})
        return web.json_response({**value, **wrong} if isinstance(wrong, Mapping) else wrong)

    async def _content(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        from aiohttp import web

        wrong = self.script.broken.get("content")
        if wrong == "html":
            page = "<html><body>\nPlease sign in.\n</body></html>"
            return web.Response(text=page, content_type="text/html")
        if wrong == "foreign":
            body = b'{"custom_id": "other", "response": null, "error": {"code": "x", "message": "y"}}\n'
        if wrong not in ("endless", "drip"):
            return web.Response(body=body, content_type="application/octet-stream")
        response = web.StreamResponse()
        await response.prepare(request)
        piece = b" " if wrong == "drip" else b"\n" * 2**12
        try:
            if wrong == "endless":
                await response.write(body)
            while True:
                await response.write(piece)
                self.pieces += 1
                await asyncio.sleep(0.005 if wrong == "drip" else 0)
        except ConnectionError:
            return response

    async def _upload(self, request: web.BaseRequest) -> web.StreamResponse:
        from aiohttp import BodyPartReader, web

        said: dict[str, bytes] = {}
        async for part in await request.multipart():
            assert isinstance(part, BodyPartReader)
            chunks = []
            while chunk := await part.read_chunk(2**16):
                chunks.append(chunk)
            said[part.name or ""] = b"".join(chunks)
        if said.get("purpose") != b"batch" or "file" not in said:
            return web.json_response(_error("invalid_request_error", "no purpose or no file", None), status=400)  # fmt: skip
        name = self._keep(said["file"])
        size = len(said["file"])
        return self._reply("upload", {"id": name, "object": "file", "bytes": size, "purpose": "batch"})  # fmt: skip

    def _keep(self, body: bytes) -> str:
        name = f"file-{len(self.files) + 1}"
        self.files[name] = body
        return name

    def _create(self, body: bytes) -> web.StreamResponse:
        from aiohttp import web

        asked = json.loads(body)
        wanted = (asked.get("endpoint"), asked.get("completion_window"))
        if (
            wanted != ("/v1/chat/completions", "24h")
            or asked.get("input_file_id") not in self.files
        ):
            return web.json_response(_error("invalid_request_error", "no such batch can be made", None), status=400)  # fmt: skip
        lines = self.files[asked["input_file_id"]].splitlines()
        batch = {
            "id": f"batch_{len(self.made) + 1}", "object": "batch", "status": "validating", "errors": None,
            "input_file_id": asked["input_file_id"], "output_file_id": None, "error_file_id": None,
            "request_counts": {"total": len(lines), "completed": 0, "failed": 0}, "looks": 0,
        }  # fmt: skip
        self.made.append(batch)
        return self._reply("create", batch)

    def _list(self, after: str | None) -> dict[str, Any]:
        newest_first = self.made[::-1]
        names = [batch["id"] for batch in newest_first]
        start = names.index(after) + 1 if after in names else 0
        page = newest_first[start : start + 20]
        return {"object": "list", "data": page, "has_more": start + 20 < len(names)}

    def _look(self, batch: dict[str, Any], key: str, now: float) -> dict[str, Any]:
        self.looked += 1
        batch["looks"] += 1
        if batch["status"] in _ENDS:
            return batch
        batch["status"] = "in_progress"
        if batch["looks"] >= self.script.looks:
            number = self.made.index(batch)
            ends = self.script.ends
            self._end(batch, ends[number] if number < len(ends) else "completed", key, now)
        return batch

    def _end(self, batch: dict[str, Any], end: str, key: str, now: float) -> None:
        batch["status"] = end
        lines = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        if len(lines) > self.script.most_lines:
            end = batch["status"] = "failed"
        if end == "failed":
            code, told = "token_limit_exceeded", "Enqueued token limit reached for this model"
            batch["errors"] = {"object": "list", "data": [{"code": code, "message": told, "line": None}]}  # fmt: skip
            return
        chance = random.Random(f"{self._plan.script.seed}\x1f{batch['id']}")
        done = len(lines) if end == "completed" else len(lines) // 2
        good: list[bytes] = []
        bad: list[bytes] = []
        for place, line in enumerate(lines):
            if chance.random() < self.script.lost:
                continue
            if place >= done:
                reply = {**_named(line), "response": None, "error": _left_over(end)}
            else:
                reply = self._line(line, key, now)
            whole = reply["response"] is not None and reply["response"]["status_code"] == 200
            (good if whole else bad).append(json.dumps(reply).encode())
        for name, each in (("output_file_id", good), ("error_file_id", bad)):
            if self.script.shuffled:
                chance.shuffle(each)
            # Files without a line are not created.
            batch[name] = self._keep(b"\n".join(each) + b"\n") if each else None
        batch["request_counts"] = {"total": len(lines), "completed": len(good), "failed": len(bad)}

    def _line(self, line: Mapping[str, Any], key: str, now: float) -> dict[str, Any]:
        asked = line["body"]
        kind = self._plan.decide(content_of(asked["messages"]), now, key, asked)
        status, body = 200, {"result": "ok"}
        if kind in _BROKEN:
            status, body = error_body("error")
        elif kind in ("ok", "empty", "refusal", "filtered", "no_logprobs"):
            body = completion(self._plan.script, asked["messages"], asked, kind)
        elif kind != "off_schema":
            status, body = error_body(kind, key)
        reply = {"status_code": status, "request_id": "req_1", "body": body}
        return {**_named(line), "response": reply, "error": None}


def _named(line: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": "batch_req_1", "custom_id": line["custom_id"]}


def _left_over(end: str) -> dict[str, Any]:
    return {"code": f"batch_{end}", "message": f"This request could not be executed: the batch was {end}"}  # fmt: skip


def _error(kind: str, message: str, code: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
