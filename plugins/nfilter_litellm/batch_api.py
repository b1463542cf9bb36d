"""Client of OpenAI's files and batches endpoints, without retries."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from nfilter_litellm.config import Route
from nfilter_litellm.failures import CallError, one_line
from nfilter_litellm.http import Connection

ENDPOINT = "/v1/chat/completions"
FINAL_STATUSES = frozenset({"completed", "failed", "expired", "cancelled"})
MAX_LINES = 50_000  # per batch
_RUNNING_STATUSES = frozenset({"validating", "in_progress", "finalizing", "cancelling"})
_LIST_UNSUPPORTED = frozenset({404, 405, 501})
_MAX_PAGES = 50  # of the list of batches that are searched, newest first


@dataclass(frozen=True, slots=True)
class Batch:
    """Server's description of a batch: id, status, result files and errors."""

    name: str
    status: str
    files: tuple[str, ...]
    errors: str


class BatchApi:
    """Batches of one server; create it in the event loop that uses it. Every method may raise CallError."""

    def __init__(self, route: Route, connection: Connection) -> None:
        from yarl import URL

        self._files = URL(f"{route.base}/files")
        self._batches = URL(f"{route.base}/batches")
        self._connection = connection

    async def upload(self, lines: bytes) -> str:
        """Upload a file of requests; return its id."""
        import aiohttp

        form = aiohttp.FormData()
        form.add_field("purpose", "batch")
        form.add_field(
            "file", io.BytesIO(lines), filename="batch.jsonl", content_type="application/jsonl"
        )
        return _text_field(await self._connection.send(self._files, form), "id")

    async def create(self, file: str) -> str:
        """Create a batch from an uploaded file; return its id."""
        body = {"input_file_id": file, "endpoint": ENDPOINT, "completion_window": "24h"}
        return _text_field(
            await self._connection.post(self._batches, json.dumps(body).encode()), "id"
        )

    async def retrieve(self, name: str) -> Batch:
        """Return the state of a batch."""
        batch = _parse_batch(await self._connection.get(self._batches / name))
        if batch.name != name:
            raise _invalid(f"it describes batch {batch.name} in place of {name}")
        return batch

    async def find_by_file(self, file: str) -> str | None:
        """Return the id of the recent batch created from a file; None if there is none or the server has no list."""
        query = {"limit": "100"}
        for _ in range(_MAX_PAGES):
            try:
                page = await self._connection.get(self._batches.with_query(query))
            except CallError as error:
                if error.status in _LIST_UNSUPPORTED:
                    return None
                raise
            listed = page.get("data", ...) if isinstance(page, Mapping) else ...
            if listed is not None and not isinstance(listed, list):
                raise _invalid("it has no list of batches")
            batches = [each for each in listed or () if isinstance(each, Mapping)]
            for each in batches:
                if each.get("input_file_id") == file:
                    return _text_field(each, "id")
            if not batches or not page.get("has_more"):
                break
            query["after"] = _text_field(batches[-1], "id")
        return None

    async def lines(self, file: str) -> AsyncGenerator[Mapping[str, Any], None]:
        """Yield the lines of a batch's result file as JSON objects; an empty object for an invalid line."""
        number = 0
        async with aclosing(self._connection.lines(self._files / file / "content")) as lines:
            async for line in lines:
                number += 1
                if number > 2 * MAX_LINES:
                    raise CallError("server", f"the file has more than {2 * MAX_LINES} lines")
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError):
                    value = None
                yield value if isinstance(value, Mapping) else {}

    async def close(self) -> None:
        """Close the connections."""
        await self._connection.close()


def _parse_batch(value: Any) -> Batch:
    name, status = _text_field(value, "id"), _text_field(value, "status").lower()
    if status not in FINAL_STATUSES | _RUNNING_STATUSES:
        raise _invalid(f"the status of batch {name} is {status!r}")
    files = [
        _text_field(value, field)
        for field in ("output_file_id", "error_file_id")
        if value.get(field) not in (None, "")
    ]
    return Batch(name, status, tuple(files), _error_text(value.get("errors")))


def _error_text(errors: Any) -> str:
    """Return the first three errors of the protocol's list, or the JSON of another value."""
    listed = errors.get("data") if isinstance(errors, Mapping) else None
    if isinstance(listed, list):
        first = [each for each in listed[:3] if isinstance(each, Mapping)]
        return one_line(
            "; ".join(f"{each.get('code') or ''}: {each.get('message') or ''}" for each in first)
        )
    return one_line(json.dumps(errors)) if errors else ""


def _text_field(value: Any, field: str) -> str:
    text = value.get(field) if isinstance(value, Mapping) else None
    # The value is used in addresses and errors.
    if not isinstance(text, str) or not text or text != one_line(text):
        raise _invalid(f"it has no {field}")
    # It must not lead to an address outside the server's files or batches.
    if any(part in ("", ".", "..") for part in text.split("/")):
        raise _invalid(f"its {field} is {text!r}, which is invalid in an address")
    return text


def _invalid(detail: str) -> CallError:
    """Return the error for a JSON reply that is not of the batch protocol."""
    return CallError("parse", f"the reply is not of OpenAI's batch protocol: {detail}", retry=True)
