"""OpenAI's files and batches, as they go over the wire: a request each, and nothing tried again here."""

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
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
MOST_LINES = 50_000  # of a batch
_UNDER_WAY = frozenset({"validating", "in_progress", "finalizing", "cancelling"})
_NO_LIST = frozenset({404, 405, 501})
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

    async def create(self, file: str) -> str:
        """Have a file worked off; the batch's name."""
        asked = {"input_file_id": file, "endpoint": ENDPOINT, "completion_window": "24h"}
        return _word(await self._connection.post(self._batches, json.dumps(asked).encode()), "id")

    async def look(self, name: str) -> Batch:
        """Where a batch stands."""
        batch = _batch(await self._connection.get(self._batches / name))
        if batch.name != name:
            raise _odd(f"it is of batch {batch.name}, and {name} was asked for")
        return batch

    async def find(self, file: str) -> str | None:
        """The name of the batch that was made of a file, among the newest; None where there is none, or the server has no list."""
        asked = {"limit": "100"}
        for _ in range(_PAGES):
            try:
                page = await self._connection.get(self._batches.with_query(asked))
            except CallError as error:
                if error.status in _NO_LIST:
                    return None
                raise
            listed = page.get("data", ...) if isinstance(page, Mapping) else ...
            if listed is not None and not isinstance(listed, list):
                raise _odd("it has no list of batches")
            batches = [each for each in listed or () if isinstance(each, Mapping)]
            for each in batches:
                if each.get("input_file_id") == file:
                    return _word(each, "id")
            if not batches or not page.get("has_more"):
                break
            asked["after"] = _word(batches[-1], "id")
        return None

    async def lines(self, file: str) -> AsyncGenerator[Mapping[str, Any], None]:
        """The replies in a batch's file; for what is no JSON object, an empty one."""
        number = 0
        async with aclosing(self._connection.lines(self._files / file / "content")) as lines:
            async for line in lines:
                number += 1
                if number > 2 * MOST_LINES:
                    raise CallError("server", f"the file has more than {2 * MOST_LINES} lines")
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError):
                    value = None
                yield value if isinstance(value, Mapping) else {}

    async def close(self) -> None:
        """Close the connections."""
        await self._connection.close()


def _batch(value: Any) -> Batch:
    name, status = _word(value, "id"), _word(value, "status").lower()
    if status not in ENDED | _UNDER_WAY:
        raise _odd(f"the status of batch {name} is {status!r}")
    files = [
        _word(value, field)
        for field in ("output_file_id", "error_file_id")
        if value.get(field) not in (None, "")
    ]
    return Batch(name, status, tuple(files), _told(value.get("errors")))


def _told(errors: Any) -> str:
    """What is wrong with a batch: the first three errors of the protocol's list, or whatever stands there."""
    listed = errors.get("data") if isinstance(errors, Mapping) else None
    if isinstance(listed, list):
        some = [each for each in listed[:3] if isinstance(each, Mapping)]
        return one_line(
            "; ".join(f"{each.get('code') or ''}: {each.get('message') or ''}" for each in some)
        )
    return one_line(json.dumps(errors)) if errors else ""


def _word(value: Any, field: str) -> str:
    found = value.get(field) if isinstance(value, Mapping) else None
    # It stands in addresses and errors.
    if not isinstance(found, str) or not found or found != one_line(found):
        raise _odd(f"it has no {field}")
    # An address that it leads to is one below the server's files or batches.
    if any(part in ("", ".", "..") for part in found.split("/")):
        raise _odd(f"its {field} is {found!r}, which no address can have")
    return found


def _odd(what: str) -> CallError:
    """A reply that is JSON, and not of the protocol."""
    return CallError("parse", f"the reply is not one of OpenAI's batches: {what}", again=True)
