"""Read the calls of a sample from the journal without changing it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nfilter.api.types import Message, ToolCall
from nfilter.store.journal import undamaged, unpacked_prompt

_REMEDY = "run the same command again to repair it"
# The primary key begins with the stage: going through the stages finds a sample's calls without a scan of the table.
_STAGES = (
    "WITH RECURSIVE named(stage) AS (SELECT min(stage) FROM uses UNION ALL "
    "SELECT (SELECT min(stage) FROM uses WHERE stage > named.stage) FROM named WHERE named.stage IS NOT NULL) "
)
_QUERY = (
    _STAGES
    + "SELECT uses.stage, uses.model, calls.answer, calls.key, calls.answer, calls.prompt_tokens, calls.completion_tokens, "
    "calls.usd, calls.seal, uses.stage, uses.sample, uses.key, uses.model, uses.at, uses.seal "
    "FROM named CROSS JOIN uses ON uses.stage = named.stage AND uses.sample = ? JOIN calls USING (key) "
    "ORDER BY uses.at, uses.stage"
)
_PROMPT = "SELECT asked FROM prompts WHERE key = ?"


@dataclass(frozen=True, slots=True)
class Call:
    """One call to a model: its stage, its answer with the tools that it asks for, its tokens and its cost in dollars.

    ``nll`` is the mean negative log-likelihood of the generated tokens; None if the stage requested no logprobs. ``usd`` is
    None if the model has no price. ``prompt`` has the messages as pairs of role and content; None if they are not recorded.
    """

    stage: str
    model: str
    text: str
    finish: str
    prompt_tokens: int
    completion_tokens: int
    nll: float | None
    failure: str | None
    usd: float | None = None
    reasoning: str | None = None
    prompt: Sequence[tuple[str, str]] | None = None


@dataclass(frozen=True, slots=True)
class Calls:
    """The recorded calls in order of time; ``gap`` says why calls are missing, None if none are."""

    calls: Sequence[Call]
    gap: str | None = None


def calls_for(journal: Path, sample_id: str) -> Calls:
    """Return the calls that were made for a sample. The journal is opened read-only and may be missing."""
    if not journal.is_file():
        return Calls([], "journal.db is missing, so no calls are listed")
    uri = f"{journal.resolve().as_uri()}?mode=ro"
    if not journal.with_name(f"{journal.name}-wal").exists():
        # No process has it open. Without this, reading would create two empty files beside it.
        uri += "&immutable=1"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            connection.text_factory = lambda data: data.decode("utf-8", "replace")
            rows = connection.execute(_QUERY, (sample_id,)).fetchall()
            prompts = {row[3]: _prompt(connection, row[3]) for row in rows}
    except sqlite3.Error as error:
        return Calls([], f"journal.db cannot be read ({error}), so no calls are listed; {_REMEDY}")
    valid = [row for row in rows if undamaged(row[3:9]) and undamaged(row[9:])]
    gap = f"calls that are damaged in journal.db; {_REMEDY}"
    return Calls(
        [
            _call(stage, model, json.loads(answer), row[4], prompts[row[0]])
            for stage, model, answer, *row in valid
        ],
        gap if len(valid) < len(rows) else None,
    )


def _prompt(connection: sqlite3.Connection, key: str) -> list[tuple[str, str]] | None:
    """The messages of a call; None where a journal from before prompts were kept does not have them."""
    try:
        found = connection.execute(_PROMPT, (key,)).fetchone()
    except sqlite3.OperationalError:
        return None
    asked = unpacked_prompt(found[0]) if found else None
    if asked is None:
        return None
    messages = [Message.unpacked(message) for message in asked["messages"]]
    return [(message.role, message.shown()) for message in messages]


def _call(
    stage: str,
    model: str,
    answer: dict[str, Any],
    usd: float | None,
    prompt: list[tuple[str, str]] | None,
) -> Call:
    reasoning = answer.get("reasoning")
    failure = answer.get("failure")
    logprobs = answer.get("logprobs")
    nll = -sum(logprobs) / len(logprobs) if isinstance(logprobs, list) and logprobs else None
    return Call(
        stage=stage,
        model=model,
        text=_text(answer),
        finish=str(answer.get("finish", "")),
        prompt_tokens=_whole(answer.get("prompt_tokens")),
        completion_tokens=_whole(answer.get("completion_tokens")),
        nll=nll,
        failure=": ".join(str(part) for part in failure) if isinstance(failure, list) else None,
        usd=usd,
        reasoning=reasoning if isinstance(reasoning, str) else None,
        prompt=prompt,
    )


def _text(answer: Mapping[str, Any]) -> str:
    """The answer as text: what was written, and one line per tool call."""
    calls = tuple(ToolCall(*call) for call in answer.get("tool_calls", ()))
    return Message("assistant", str(answer.get("text", "")), tool_calls=calls).shown()


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0
