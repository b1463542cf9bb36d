"""The journal, read by a process that must not change it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

_REMEDY = "run the same command again, and it says what became of them"
_QUERY = (
    "SELECT uses.stage, uses.model, calls.answer, calls.key, calls.answer, calls.prompt_tokens, calls.completion_tokens, "
    "calls.usd, calls.seal, uses.stage, uses.sample, uses.key, uses.model, uses.at, uses.seal "
    "FROM uses JOIN calls USING (key) WHERE sample = ? ORDER BY at, stage"
)


@dataclass(frozen=True, slots=True)
class Call:
    """One call to a model: for which stage, what it answered, and what that cost in tokens.

    ``nll`` is the mean negative log-likelihood of what was generated, None where the stage asked for none.
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
    """The calls on record in order of time; ``gap`` says why there are none to read, where that is so."""

    calls: Sequence[Call]
    gap: str | None = None


def calls_for(journal: Path, sample_id: str) -> Calls:
    """Every call that was made for a sample. The journal is opened read only and may be absent."""
    from nfilter.store.journal import whole

    if not journal.is_file():
        return Calls([], "journal.db is not there, so no calls are listed")
    uri = f"{journal.resolve().as_uri()}?mode=ro"
    if not journal.with_name(f"{journal.name}-wal").exists():
        # Nobody has it open. Without this, reading would leave two empty files beside it.
        uri += "&immutable=1"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            connection.text_factory = lambda data: data.decode("utf-8", "replace")
            rows = connection.execute(_QUERY, (sample_id,)).fetchall()
    except sqlite3.Error as error:
        return Calls([], f"journal.db cannot be read ({error}), so no calls are listed; {_REMEDY}")
    sound = [row for row in rows if whole(row[3:9]) and whole(row[9:])]
    gap = f"calls that journal.db does not hold as they were written; {_REMEDY}"
    return Calls(
        [_call(stage, model, json.loads(answer)) for stage, model, answer, *_ in sound],
        gap if len(sound) < len(rows) else None,
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
