"""Read the calls of a sample from the journal without changing it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

_REMEDY = "run the same command again to repair it"
_QUERY = (
    "SELECT uses.stage, uses.model, calls.answer, calls.key, calls.answer, calls.prompt_tokens, calls.completion_tokens, "
    "calls.usd, calls.seal, uses.stage, uses.sample, uses.key, uses.model, uses.at, uses.seal "
    "FROM uses JOIN calls USING (key) WHERE sample = ? ORDER BY at, stage"
)


@dataclass(frozen=True, slots=True)
class Call:
    """One call to a model: its stage, its answer and its tokens.

    ``nll`` is the mean negative log-likelihood of the generated tokens; None if the stage requested no logprobs.
    """

    stage: str
    model: str
    text: str
    finish: str
    prompt_tokens: int
    completion_tokens: int
    nll: float | None
    failure: str | None


@dataclass(frozen=True, slots=True)
class Calls:
    """The recorded calls in order of time; ``gap`` says why calls are missing, None if none are."""

    calls: Sequence[Call]
    gap: str | None = None


def calls_for(journal: Path, sample_id: str) -> Calls:
    """Return the calls that were made for a sample. The journal is opened read-only and may be missing."""
    from nfilter.store.journal import undamaged

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
    except sqlite3.Error as error:
        return Calls([], f"journal.db cannot be read ({error}), so no calls are listed; {_REMEDY}")
    valid = [row for row in rows if undamaged(row[3:9]) and undamaged(row[9:])]
    gap = f"calls that are damaged in journal.db; {_REMEDY}"
    return Calls(
        [_call(stage, model, json.loads(answer)) for stage, model, answer, *_ in valid],
        gap if len(valid) < len(rows) else None,
    )


def _call(stage: str, model: str, answer: dict[str, object]) -> Call:
    failure = answer.get("failure")
    logprobs = answer.get("logprobs")
    nll = -sum(logprobs) / len(logprobs) if isinstance(logprobs, list) and logprobs else None
    return Call(
        stage=stage,
        model=model,
        text=str(answer.get("text", "")),
        finish=str(answer.get("finish", "")),
        prompt_tokens=_whole(answer.get("prompt_tokens")),
        completion_tokens=_whole(answer.get("completion_tokens")),
        nll=nll,
        failure=": ".join(str(part) for part in failure) if isinstance(failure, list) else None,
    )


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0
