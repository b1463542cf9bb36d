"""OpenAI's files and batches, as they go over the wire: a request each, and nothing tried again here."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from nfilter_litellm.config import Route
from nfilter_litellm.failures import CallError, off_schema, one_line
from nfilter_litellm.http import Connection

ENDPOINT = "/v1/chat/completions"
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_PAGES = 50  # of the list of batches that are looked through, newest first


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as the server tells of it: where it stands, which files it has by now, and what is wrong with it."""

    name: str
    status: str
    files: tuple[str, ...]
    told: str


class BatchApi:
    """The batches of one server. Built in the event loop that uses it. Every method may raise CallError."""

    def __init__(self, route: Route, connection: Connection) -> None:
        from yarl import URL

        self._files = URL(f"{route.base}/files")
        self._batches = URL(f"{route.base}/batches")
        self._connection = connection

    async def upload(self, lines: bytes) -> str:
        """Bring a file of requests; its name there."""
        import aiohttp

        form = aiohttp.FormData()
        form.add_field("purpose", "batch")
        form.add_field(
            "file", io.BytesIO(lines), filename="batch.jsonl", content_type="application/jsonl"
        )
        return _word(await self._connection.send(self._files, form), "id")

    async def create(self, file: str) -> Batch:
        """Have a file worked off."""
        asked = {"input_file_id": file, "endpoint": ENDPOINT, "completion_window": "24h"}
        return _batch(await self._connection.post(self._batches, json.dumps(asked).encode()))

    async def look(self, name: str) -> Batch:
        """Where a batch stands."""
        return _batch(await self._connection.get(self._batches / name))

    async def find(self, file: str) -> Batch | None:
        """The batch that was made of a file, among the newest; None where there is none, or the server has no list."""
        asked = {"limit": "100"}
        for _ in range(_PAGES):
            try:
                page = await self._connection.get(self._batches.with_query(asked))
            except CallError as error:
                if error.again:
                    raise
                return None
            listed = page.get("data") if isinstance(page, Mapping) else None
            batches = [each for each in listed or () if isinstance(each, Mapping)]
            for each in batches:
                if each.get("input_file_id") == file:
                    return _batch(each)
            if not batches or not page.get("has_more"):
                break
            asked["after"] = _word(batches[-1], "id")
        return None

    async def lines(self, file: str) -> AsyncIterator[Mapping[str, Any]]:
        """The replies in a batch's file; what is no JSON object is left out."""
        async for line in self._connection.lines(self._files / file / "content"):
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(value, Mapping):
                yield value

    async def close(self) -> None:
        """Close the connections."""
        await self._connection.close()


def _batch(value: Any) -> Batch:
    name, status = _word(value, "id"), _word(value, "status").lower()
    files = (value.get("output_file_id"), value.get("error_file_id"))
    errors = value.get("errors")
    listed = errors.get("data") if isinstance(errors, Mapping) else None
    told = "; ".join(
        f"{each.get('code') or ''}: {each.get('message') or ''}"
        for each in (listed or ())[:3]
        if isinstance(each, Mapping)
    )
    return Batch(
        name,
        status,
        tuple(file for file in files if isinstance(file, str) and file),
        one_line(told),
    )


def _word(value: Any, field: str) -> str:
    found = value.get(field) if isinstance(value, Mapping) else None
    # It stands in addresses and errors.
    if not isinstance(found, str) or not found or found != one_line(found):
        raise off_schema(f"it has no {field}")
    return found
