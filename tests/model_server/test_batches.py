"""Files and batches of the model server: what each end leaves, and that no clock takes part."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import pytest

from tests.model_server.batches import BatchScript
from tests.model_server.faults import Script, answer
from tests.model_server.server import ModelServer

LINES = [
    {"custom_id": f"c{n}", "method": "POST", "url": "/v1/chat/completions",
     "body": {"model": "m", "messages": [{"role": "user", "content": f"q{n}"}]}}
    for n in range(10)
]  # fmt: skip


def call(url: str, data: Any = None, kind: str = "application/json") -> tuple[int, bytes]:
    body = data if data is None or isinstance(data, bytes) else json.dumps(data).encode()
    request = urllib.request.Request(url, data=body, headers={"Content-Type": kind, "Authorization": "Bearer k"})  # fmt: skip
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def upload(server: ModelServer, lines: list[Any] = LINES, purpose: str = "batch") -> Any:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    form = (
        f'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n{purpose}\r\n'
        f'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n{text}\r\n--x--\r\n'
    )
    return call(f"{server.url}/files", form.encode(), "multipart/form-data; boundary=x")


def make(server: ModelServer) -> dict[str, Any]:
    file = json.loads(upload(server)[1])["id"]
    asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    status, body = call(f"{server.url}/batches", asked)
    assert status == 200
    made: dict[str, Any] = json.loads(body)
    return made


def look(server: ModelServer, name: str = "batch_1") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(call(f"{server.url}/batches/{name}")[1])
    return found


def lines(server: ModelServer, file: str | None) -> list[dict[str, Any]]:
    if file is None:
        return []
    status, body = call(f"{server.url}/files/{file}/content")
    assert status == 200
    return [json.loads(line) for line in body.splitlines()]


def test_a_batch_ends_at_a_look_with_a_line_a_call() -> None:
    script = BatchScript(looks=3)
    with ModelServer(Script(faults={"refusal": 0.2, "error": 0.2}), batches=script) as server:
        assert make(server)["status"] == "validating"
        assert [look(server)["status"] for _ in range(3)] == ["in_progress", "in_progress", "completed"]  # fmt: skip
        batch = look(server)
        good, bad = (lines(server, batch[f"{name}_file_id"]) for name in ("output", "error"))
        assert {line["custom_id"] for line in (*good, *bad)} == {f"c{n}" for n in range(10)}
        assert {line["response"]["status_code"] for line in good} == {200}
        assert {line["response"]["status_code"] for line in bad} == {500}
        right = answer([{"role": "user", "content": good[0]["custom_id"].replace("c", "q")}])
        texts = [line["response"]["body"]["choices"][0]["message"]["content"] for line in good]
        assert right in texts
        assert batch["request_counts"] == {"total": 10, "completed": len(good), "failed": len(bad)}
        assert sum(server.plan.counts.values()) == 10


@pytest.mark.parametrize(("end", "left"), [("expired", 5), ("cancelled", 5), ("failed", 10)])
def test_other_ends(end: str, left: int) -> None:
    with ModelServer(batches=BatchScript(ends=[end])) as server:
        make(server)
        batch = look(server)
        assert batch["status"] == end
        assert sum(server.plan.counts.values()) == 10 - left
        if end == "failed":
            assert batch["errors"]["data"][0]["code"] == "token_limit_exceeded"
            assert batch["output_file_id"] is None
            return
        bad = lines(server, batch["error_file_id"])
        assert [line["error"]["code"] for line in bad] == [f"batch_{end}"] * left
        make(server)
        assert look(server, "batch_2")["status"] == "completed"


def test_lines_get_lost_and_change_places() -> None:
    with ModelServer(batches=BatchScript(lost=0.3, shuffled=True)) as server:
        make(server)
        names = [line["custom_id"] for line in lines(server, look(server)["output_file_id"])]
        assert 0 < len(names) < 10
        assert names != sorted(names)
    with ModelServer(batches=BatchScript(most_lines=9)) as server:
        make(server)
        assert look(server)["status"] == "failed"


def test_the_list_is_in_pages_newest_first() -> None:
    with ModelServer(batches=BatchScript()) as server:
        for _ in range(25):
            make(server)
        first = json.loads(call(f"{server.url}/batches")[1])
        assert [batch["id"] for batch in first["data"]][:2] == ["batch_25", "batch_24"]
        assert first["has_more"]
        rest = json.loads(call(f"{server.url}/batches?after=batch_6")[1])
        assert [batch["id"] for batch in rest["data"]] == [f"batch_{n}" for n in (5, 4, 3, 2, 1)]
        assert not rest["has_more"]
        server.batches.script = BatchScript(listed=False)
        assert call(f"{server.url}/batches")[0] == 404


def test_what_is_wrong_is_refused() -> None:
    with ModelServer(Script(key="other"), batches=BatchScript()) as server:
        assert upload(server)[0] == 401
    with ModelServer(batches=BatchScript()) as server:
        assert upload(server, purpose="fine-tune")[0] == 400
        assert call(f"{server.url}/batches", {"input_file_id": "nothing"})[0] == 400
        assert call(f"{server.url}/batches/nothing")[0] == 404
        assert call(f"{server.url}/files/nothing/content")[0] == 404
    with ModelServer() as server:
        assert upload(server)[0] == 404
    with pytest.raises(ValueError, match="no end 'burnt'"):
        BatchScript(ends=["burnt"])
    with pytest.raises(ValueError, match="no place 'looks'"):
        BatchScript(broken={"looks": 500})
    with pytest.raises(ValueError, match="no content 'nothing'"):
        BatchScript(broken={"content": "nothing"})


def test_replies_are_broken_as_the_script_says() -> None:
    broken = {"look": {"id": "other"}, "list": ["x"], "content": "html"}
    with ModelServer(batches=BatchScript(broken=broken)) as server:
        make(server)
        assert look(server) == {**server.batches.made[0], "id": "other"}
        assert json.loads(call(f"{server.url}/batches")[1]) == ["x"]
        assert call(f"{server.url}/files/file-1/content")[1].startswith(b"<html>")
        server.batches.script = BatchScript(broken={"content": "foreign", "upload": 503})
        assert [line["custom_id"] for line in lines(server, "file-1")] == ["other"]
        assert upload(server)[0] == 503
        server.batches.script = BatchScript(broken={"content": "endless"})
        with urllib.request.urlopen(f"{server.url}/files/file-1/content", timeout=10) as reply:
            assert json.loads(reply.readline()) == LINES[0]
            begun = reply.read(2**16)
        assert begun.endswith(b"\n" * 100)
        assert server.batches.pieces > 0
