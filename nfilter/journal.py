"""What was asked of models and what they answered: SQLite, one writer, one connection.

A call and its cost are committed together. A committed call is never made again: its key is the SHA-256 of all
that can change the answer, and of nothing else.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nfilter.errors import StoreError
from nfilter.failpoints import reach
from nfilter.store import digest
from nfilter.types import Completion, Failure, Message, Request

_SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
    key TEXT PRIMARY KEY,
    answer TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    usd REAL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lost (
    stage TEXT NOT NULL,
    model TEXT NOT NULL,
    usd REAL NOT NULL,
    at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS uses (
    stage TEXT NOT NULL,
    sample TEXT NOT NULL,
    key TEXT NOT NULL,
    model TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (stage, sample, key)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Use:
    """One call as a stage made it: what for, and under which key its answer is kept."""

    stage: str
    sample: str
    key: str
    model: str


def call_key(fingerprint: str, request: Request) -> str:
    """The key of a call. A greedy call does not depend on its seed or draw, so neither is in its key."""
    sampling = request.sampling
    drawn = [sampling.seed, request.draw] if sampling.temperature > 0 else []
    return digest(
        fingerprint,
        [_asked(message) for message in request.messages],
        [sampling.max_tokens, sampling.temperature, sampling.top_p, list(sampling.stop)],
        drawn,
        request.logprobs,
        *([list(map(dict, request.tools))] if request.tools else []),
    )


def _asked(message: Message) -> list[Any]:
    # A weight changes the loss, never what a model is asked.
    return replace(message, weight=1.0).packed()


class Journal:
    """The calls of a run. All access goes through one connection, under one lock."""

    def __init__(self, path: Path, lenders: Sequence[Path] = ()) -> None:
        """``lenders`` are journals of finished runs, only read: what they answered is not asked again."""
        self._lock = threading.Lock()
        self._path = path
        self._lenders = tuple(lender for lender in lenders if lender.is_file())
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.executescript(_SCHEMA)
            columns = [row[1] for row in self._connection.execute("PRAGMA table_info(calls)")]
            if "usd" not in columns:  # a journal from before costs were kept
                self._connection.execute("ALTER TABLE calls ADD COLUMN usd REAL")
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise StoreError(
                f"{path}: not a journal ({error}); move it away and run again: its calls are then made anew"
            ) from error

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._connection.close()

    def find(self, keys: Sequence[str]) -> dict[str, Completion]:
        """The committed answers among ``keys``."""
        with self._lock:
            found = _among(self._connection, keys)
        for lender in self._lenders:
            missing = [key for key in keys if key not in found]
            if not missing:
                break
            # Nobody writes to a lender any more, so it needs neither lock nor shared-memory file.
            connection = sqlite3.connect(
                f"{lender.resolve().as_uri()}?mode=ro&immutable=1", uri=True
            )
            try:
                lent = _among(connection, missing)
            finally:
                connection.close()
            # The lender paid for them.
            self.commit([(key, replace(done, usd=0.0)) for key, done in lent.items()], [])
            found.update(lent)
        return found

    def commit(
        self,
        answers: Sequence[tuple[str, Completion]],
        uses: Sequence[Use],
        lost: Sequence[tuple[str, str, float]] = (),
    ) -> None:
        """Commit answers, what they cost and what they were for, together.

        ``lost`` is money for calls that have no answer to keep: stage, model, dollars.
        """
        now = time.time()
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                reach("journal.begun")
                self._connection.executemany(
                    "INSERT INTO calls VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    [
                        (
                            key,
                            json.dumps(_plain(done)),
                            done.prompt_tokens,
                            done.completion_tokens,
                            done.usd,
                        )
                        for key, done in answers
                    ],
                )
                reach("journal.answers")
                self._connection.executemany(
                    "INSERT INTO lost VALUES (?, ?, ?, ?)", [(*each, now) for each in lost]
                )
                self._connection.executemany(
                    "INSERT INTO uses VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    [(use.stage, use.sample, use.key, use.model, now) for use in uses],
                )
                reach("journal.uses")
                self._connection.execute("COMMIT")
                reach("journal.committed")
            except BaseException as error:
                # A full disk has SQLite roll back by itself.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    raise StoreError(
                        f"{self._path}: cannot be written ({error}); what was committed before is safe: make room there, and "
                        "the same command goes on"
                    ) from error
                raise

    def usd(self) -> float:
        """Dollars that this run paid, for calls without an answer too."""
        with self._lock:
            (paid,) = self._connection.execute("SELECT total(usd) FROM calls").fetchone()
            (lost,) = self._connection.execute("SELECT total(usd) FROM lost").fetchone()
        return float(paid + lost)

    def usage(self) -> dict[str, dict[str, int]]:
        """Calls and tokens by stage: ``{stage: {calls, prompt_tokens, completion_tokens}}``."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT stage, count(*), sum(prompt_tokens), sum(completion_tokens) "
                "FROM uses JOIN calls USING (key) GROUP BY stage"
            ).fetchall()
        return {
            stage: {"calls": calls, "prompt_tokens": prompt, "completion_tokens": completion}
            for stage, calls, prompt, completion in rows
        }

    def stages(self) -> list[str]:
        """The stages that made calls, by name."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT DISTINCT stage FROM uses ORDER BY stage"
            ).fetchall()
        return [stage for (stage,) in rows]

    def forget(self, stages: Sequence[str]) -> None:
        """Forget what ``stages`` used (their answers stay): a changed stage counts its calls anew."""
        with self._lock:
            self._connection.executemany(
                "DELETE FROM uses WHERE stage = ?", [(name,) for name in stages]
            )

    def calls_for(self, sample: str) -> list[dict[str, Any]]:
        """Every call that was made for a sample, in order of time."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT stage, model, answer FROM uses JOIN calls USING (key) WHERE sample = ? ORDER BY at",
                (sample,),
            ).fetchall()
        return [
            {"stage": stage, "model": model, **json.loads(answer)} for stage, model, answer in rows
        ]


def paid_in(path: Path) -> float:
    """Dollars that the run of the journal ``path`` paid so far; 0 where there is none."""
    if not path.is_file():
        return 0.0
    journal = Journal(path)
    try:
        return journal.usd()
    finally:
        journal.close()


def _among(connection: sqlite3.Connection, keys: Sequence[str]) -> dict[str, Completion]:
    found: dict[str, Completion] = {}
    for start in range(0, len(keys), 500):
        part = keys[start : start + 500]
        marks = ",".join("?" * len(part))
        rows = connection.execute(
            f"SELECT key, answer FROM calls WHERE key IN ({marks})",  # noqa: S608 - marks only
            part,
        )
        found.update((key, _completion(json.loads(answer))) for key, answer in rows)
    return found


def _plain(done: Completion) -> dict[str, Any]:
    return {
        "text": done.text,
        "finish": done.finish,
        "logprobs": None if done.logprobs is None else list(done.logprobs),
        "prompt_tokens": done.prompt_tokens,
        "completion_tokens": done.completion_tokens,
        "failure": None if done.failure is None else [done.failure.kind, done.failure.detail],
        **({} if done.reasoning is None else {"reasoning": done.reasoning}),
    }


def _completion(value: dict[str, Any]) -> Completion:
    failure = value["failure"]
    return Completion(
        text=value["text"],
        finish=value["finish"],
        logprobs=None if value["logprobs"] is None else tuple(value["logprobs"]),
        prompt_tokens=value["prompt_tokens"],
        completion_tokens=value["completion_tokens"],
        failure=None if failure is None else Failure(failure[0], failure[1]),
        cached=True,
        reasoning=value.get("reasoning"),
    )
