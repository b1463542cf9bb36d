"""The journal: calls to models with their answers, in SQLite, with one writer and one connection.

A call and its cost are committed together. A committed call is never repeated: its key is the SHA-256 of exactly the values
that can change the answer.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nfilter.api.calls import Completion, FailureKind, Request
from nfilter.api.errors import StoreError
from nfilter.api.file_errors import missing_permission, write_error
from nfilter.api.types import Message
from nfilter.store.failpoints import reach
from nfilter.store.files import digest
from nfilter.store.journal_tables import (
    ASKED_IN_STAGE,
    INSERT,
    INSERT_ONCE,
    OF_STAGE,
    OUTCOMES,
    SEALED,
    STAGES_WITHOUT_ANSWERS,
    TABLES,
    USED_IN_STAGE,
)


@dataclass(frozen=True, slots=True)
class Use:
    """One call of a stage: the sample it was made for, and the key of its answer."""

    stage: str
    sample: str
    key: str
    model: str


def call_key(fingerprint: str, request: Request) -> str:
    """Return the key of a call. A greedy call does not depend on seed and draw, so its key does not contain them."""
    sampling = request.sampling
    drawn = [sampling.seed, request.draw] if sampling.temperature > 0 else []
    return digest(
        fingerprint,
        [_without_weight(message) for message in request.messages],
        [sampling.max_tokens, sampling.temperature, sampling.top_p, list(sampling.stop)],
        drawn,
        request.logprobs,
        *_asked_beside(request),
    )


def _asked_beside(request: Request) -> list[Any]:
    """Return the other parts of the key. A request with tools alone has the key that it had before there was more to ask."""
    beside = request.beside_messages()
    return [beside["tools"]] if beside.keys() == {"tools"} else [beside] if beside else []


def _without_weight(message: Message) -> list[Any]:
    # A weight changes the loss, not the request.
    return replace(message, weight=1.0).packed()


class Journal:
    """The calls of a run. All access uses one connection, under one lock."""

    def __init__(
        self,
        path: Path,
        lenders: Sequence[Path] = (),
        complain: Callable[[str], None] | None = None,
        *,
        repair: bool = True,
        shared_memory: bool = True,
    ) -> None:
        """``lenders`` are journals that nobody writes, opened read-only; their answers are reused.

        Damaged rows are removed and reported to ``complain``; ``may_lack_calls`` tells which stages used them. If ``repair``
        is False, rows are neither verified nor removed. If ``shared_memory`` is False, the file is complete after every commit,
        and another machine may read it between two commits.

        Raises:
            StoreError: if ``path`` is not a journal, or SQLite cannot read it.
        """
        self._lock = threading.Lock()
        self._path = path
        self._lenders = tuple(lenders)
        self._damaged_stages: frozenset[str] = frozenset()
        self._any_stage_damaged = False
        self.lent = 0  # answers that this process reused from lenders
        try:
            self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        except sqlite3.Error as error:
            raise _no_journal(path, error) from error
        # A damaged text may not be UTF-8; its seal, not the decoder, detects the damage.
        self._connection.text_factory = _text
        try:
            mode = "WAL" if shared_memory else "DELETE"
            self._connection.execute(f"PRAGMA journal_mode={mode}")
            self._connection.execute("PRAGMA synchronous=FULL")
            for table in TABLES.values():
                self._connection.execute(table)
            for table in SEALED:
                columns = {
                    row[1] for row in self._connection.execute(f"PRAGMA table_info({table})")
                }
                for name, kind in (("usd", "REAL"), ("seal", "TEXT")):
                    # A journal of a version without costs or seals.
                    if name not in columns and (name == "seal" or table == "calls"):
                        self._connection.execute(f"ALTER TABLE {table} ADD COLUMN {name} {kind}")
            if repair:
                self._remove_damaged(complain or (lambda _: None))
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise _no_journal(path, error) from error
        except StoreError:
            self._connection.close()
            raise

    def _remove_damaged(self, complain: Callable[[str], None]) -> None:
        """Remove the rows that differ from their seals."""
        (result,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if result != "ok":
            raise _no_journal(self._path, result)
        bad = {
            table: [row for row in self._connection.execute(query) if not undamaged(row)]
            for table, query in SEALED.items()
        }
        if not any(bad.values()):
            return
        self._rebuild(bad)
        counts = ", ".join(f"{len(rows)} of {table}" for table, rows in bad.items() if rows)
        complain(
            f"{self._path}: damaged rows were removed ({counts}); their calls are repeated if a stage needs them, and their "
            "cost still counts"
        )

    def _rebuild(self, bad: Mapping[str, Sequence[Sequence[Any]]]) -> None:
        """Rebuild every table from its undamaged rows: a damaged key in an index also hides other rows."""
        db = self._connection
        db.execute("BEGIN IMMEDIATE")
        for table, query in SEALED.items():
            db.execute(f"ALTER TABLE {table} RENAME TO damaged_{table}")
            db.execute(TABLES[table])
            rows = db.execute(query.replace(f"FROM {table}", f"FROM damaged_{table}"))
            db.executemany(INSERT[table], (row for row in rows if undamaged(row)))
            db.execute(f"DROP TABLE damaged_{table}")
        # The cost of a removed call stays counted.
        cost = {"calls": 4, "lost": 2, "results": 2}
        paid = [row[place] for table, place in cost.items() for row in bad[table]]
        plain = [usd for usd in paid if isinstance(usd, float) and 0 < usd < math.inf]
        db.executemany(
            INSERT["lost"], [sealed_row("damaged", "", usd, time.time()) for usd in plain]
        )
        # A damaged call leaves a use without an answer, which names the stage; a damaged use names no stage.
        self._damaged_stages = frozenset(stage for (stage,) in db.execute(STAGES_WITHOUT_ANSWERS))
        self._any_stage_damaged = bool(bad["uses"])
        db.execute("COMMIT")

    def may_lack_calls(self, stage: str) -> bool:
        """Whether calls of ``stage`` may have been among the damaged rows."""
        return self._any_stage_damaged or stage in self._damaged_stages

    def answers(self) -> int:
        """Return the number of calls with an answer."""
        with self._lock:
            (count,) = self._connection.execute("SELECT count(*) FROM calls").fetchone()
        return int(count)

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def find(self, keys: Sequence[str]) -> dict[str, Completion]:
        """Return the committed answers among ``keys``, of this run and of the lenders."""
        own, lent = self._rows("calls", keys)
        found = {key: _stored_answer(row[1]) for key, row in {**own, **lent}.items()}
        if lent:
            # The lender paid for them.
            self.commit([(key, replace(found[key], usd=0.0)) for key in lent], [])
            self.lent += len(lent)
        return found

    def results(self, keys: Sequence[str]) -> dict[str, str]:
        """Return the stored results of capabilities among ``keys``, as JSON, of this run and of the lenders."""
        own, lent = self._rows("results", keys)
        if lent:
            self.keep_results([(key, row[1], 0.0) for key, row in lent.items()])
        return {key: row[1] for key, row in {**own, **lent}.items()}

    def keep_results(self, rows: Sequence[tuple[str, str, float]]) -> None:
        """Commit results of capabilities: key, JSON, dollars."""
        with self._transaction() as connection:
            connection.executemany(INSERT["results"], [sealed_row(*row) for row in rows])

    def _rows(self, table: str, keys: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the rows of ``keys`` by key: those of this run, then those of the lenders."""
        with self._lock:
            own = _among(self._connection, table, keys)
        lent: dict[str, Any] = {}
        for lender in self._lenders:
            missing = [key for key in keys if key not in own and key not in lent]
            if not missing:
                break
            if not lender.is_file():
                continue
            connection = _unwritten(lender)
            try:
                lent |= _among(connection, table, missing)
            except sqlite3.DatabaseError:
                # Its own run reports the damage.
                continue
            finally:
                connection.close()
        return own, lent

    def commit(
        self,
        answers: Sequence[tuple[str, Completion]],
        uses: Sequence[Use],
        lost: Sequence[tuple[str, str, float]] = (),
        asked: Sequence[tuple[str, Request]] = (),
    ) -> None:
        """Commit answers, their costs, their uses and what was ``asked`` in one transaction.

        ``lost`` are the costs of calls without an answer: stage, model, dollars.
        """
        now = time.time()
        with self._transaction() as connection:
            connection.executemany(
                INSERT["calls"],
                [
                    sealed_row(
                        key,
                        json.dumps(done.packed()),
                        int(done.prompt_tokens),
                        int(done.completion_tokens),
                        None if done.usd is None else float(done.usd),
                    )
                    for key, done in answers
                ],
            )
            reach("journal.answers")
            connection.executemany(
                INSERT["prompts"], [(key, packed_prompt(request)) for key, request in asked]
            )
            connection.executemany(
                INSERT["lost"],
                [sealed_row(stage, model, float(usd), now) for stage, model, usd in lost],
            )
            connection.executemany(
                INSERT["uses"],
                [sealed_row(use.stage, use.sample, use.key, use.model, now) for use in uses],
            )
            reach("journal.uses")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit what the block writes, or nothing. Raises StoreError if the file cannot be written, as on a full disk."""
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                reach("journal.begun")
                yield self._connection
                self._connection.execute("COMMIT")
                reach("journal.committed")
            except BaseException as error:
                # On a full disk SQLite rolls back by itself.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    raise StoreError(
                        f"{self._path}: cannot be written ({error}); earlier commits are safe: free some space and run "
                        "the same command to resume"
                    ) from error
                raise

    def record_outcomes(
        self, stage: str, model: str, kinds: Mapping[str, FailureKind | None]
    ) -> None:
        """Record by key how calls ended: the kind of a failure, or None for an answer, which clears an earlier failure."""
        with self._lock:
            known = {
                key
                for (key,) in self._connection.execute(
                    "SELECT key FROM failed WHERE stage = ?", (stage,)
                )
            }
        cleared = [(stage, key) for key, kind in kinds.items() if kind is None and key in known]
        failed = [sealed_row(stage, key, model, kind) for key, kind in kinds.items() if kind]
        if cleared or failed:
            with self._transaction() as connection:
                connection.executemany("DELETE FROM failed WHERE stage = ? AND key = ?", cleared)
                connection.executemany(INSERT["failed"], failed)

    def outcomes(self, stage: str = "") -> dict[str, dict[str, Any]]:
        """Count the calls of one stage, or of all, by model: ``{model: {calls, failed, kinds: {kind: calls}}}``."""
        with self._lock:
            rows = self._connection.execute(OUTCOMES, {"stage": stage}).fetchall()
        outcomes: dict[str, dict[str, Any]] = {}
        for model, kind, count in rows:
            outcome = outcomes.setdefault(model, {"calls": 0, "failed": 0, "kinds": {}})
            outcome["calls"] += count
            if kind is not None:
                outcome["failed"] += count
                outcome["kinds"][kind] = count
        return outcomes

    def usd(self) -> float:
        """Return the dollars that this run paid, including calls without an answer."""
        with self._lock:
            (paid,) = self._connection.execute("SELECT total(usd) FROM calls").fetchone()
            (lost,) = self._connection.execute("SELECT total(usd) FROM lost").fetchone()
            (own,) = self._connection.execute("SELECT total(usd) FROM results").fetchone()
        return float(paid + lost + own)

    def usage(self) -> dict[str, dict[str, int]]:
        """Return calls and tokens by stage: ``{stage: {calls, prompt_tokens, completion_tokens}}``."""
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
        """Return the names of the stages that made calls, sorted."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT stage FROM uses UNION SELECT stage FROM failed ORDER BY stage"
            ).fetchall()
        return [stage for (stage,) in rows]

    def forget(self, stages: Sequence[str]) -> None:
        """Delete the uses of ``stages``, so that a changed stage counts its calls from zero; answers are kept."""
        with self._transaction() as connection:
            for statement in (
                "DELETE FROM uses WHERE stage = ?",
                "DELETE FROM failed WHERE stage = ?",
            ):
                connection.executemany(statement, [(name,) for name in stages])

    def lend(self) -> None:
        """Bring all commits so far into the file of the journal, which then stays as it is until the next call or the end.

        Other processes may read the file as a lender meanwhile; new commits go into a second file.
        """
        with self._lock:
            self._connection.execute("PRAGMA wal_autocheckpoint=0")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def absorb(self, path: Path, stage: str | None = None) -> None:
        """Take over the undamaged rows of another journal of this run that nobody writes.

        ``stage`` limits calls, uses and failed calls to those of one stage; the others belong to stages that this journal
        may have forgotten.

        Raises:
            StoreError: if it is not a readable journal.
        """
        of_stage = {"stage": stage}
        other = _unwritten(path)
        try:
            with self._transaction() as own:
                used = other.execute(USED_IN_STAGE, of_stage)
                own.executemany("DELETE FROM failed WHERE stage = ? AND key = ?", used)
                for table, query in SEALED.items():
                    rows = other.execute(query + OF_STAGE.get(table, ""), of_stage)
                    insert = INSERT_ONCE.get(table, INSERT[table])
                    own.executemany(insert, (row for row in rows if undamaged(row)))
                own.executemany(INSERT["prompts"], other.execute(ASKED_IN_STAGE, of_stage))
        except sqlite3.DatabaseError as error:
            raise _no_journal(path, error) from error
        finally:
            other.close()

    def calls_for(self, sample: str) -> list[dict[str, Any]]:
        """Return the calls that were made for a sample, in order of time."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT stage, model, answer FROM uses JOIN calls USING (key) WHERE sample = ? ORDER BY at",
                (sample,),
            ).fetchall()
        return [
            {"stage": stage, "model": model, **json.loads(answer)} for stage, model, answer in rows
        ]


def packed_prompt(request: Request) -> bytes:
    """Return the messages of a request, and its tools and schema if it has some, as compressed JSON."""
    asked: dict[str, Any] = {"messages": [_without_weight(message) for message in request.messages]}
    asked |= request.beside_messages()
    return zlib.compress(json.dumps(asked, ensure_ascii=True).encode())


def unpacked_prompt(data: Any) -> dict[str, Any] | None:
    """Return ``messages``, and ``tools`` if there are some, from ``packed_prompt``; None if the data is damaged."""
    try:
        value = json.loads(zlib.decompress(data))
    except (zlib.error, ValueError, TypeError):
        return None
    return value if isinstance(value, dict) else None


def undamaged(row: Sequence[Any]) -> bool:
    """Whether a row matches its seal, which is its last value; a row of a version without seals does."""
    try:
        return row[-1] is None or tuple(row) == sealed_row(*row[:-1])
    except TypeError:  # damage can turn a text into a blob, which Python reads as bytes
        return False


def sealed_row(*values: Any) -> tuple[Any, ...]:
    """Append the seal, an 8-byte hash in hex, to the values of a row."""
    return (*values, hashlib.blake2b(json.dumps(values).encode(), digest_size=8).hexdigest())


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _no_journal(path: Path, why: object) -> StoreError:
    # SQLite does not say that a permission is missing, and what is paid must not be moved away for it.
    denied = missing_permission(path)
    if denied is not None:
        return write_error(path, denied)
    return StoreError(
        f"{path}: not a readable journal ({why}); restore it from a backup, or move {path.parent} away and run again, which "
        "repeats all calls"
    )


def paid_in(path: Path) -> float:
    """Return the dollars recorded in the journal at ``path``; 0 if it does not exist."""
    if not path.is_file():
        return 0.0
    # Its own run repairs it, because it needs to know which stages lost calls.
    journal = Journal(path, repair=False)
    try:
        return journal.usd()
    finally:
        journal.close()


def _unwritten(path: Path) -> sqlite3.Connection:
    """Return a connection that reads a journal which nobody writes, so that it needs neither lock nor shared memory."""
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
    connection.text_factory = _text
    return connection


def _stored_answer(text: str) -> Completion:
    return replace(Completion.unpacked(json.loads(text)), cached=True)


def _among(connection: sqlite3.Connection, table: str, keys: Sequence[str]) -> dict[str, Any]:
    """Return the rows of ``keys`` that are as they were written, by key."""
    found: dict[str, Any] = {}
    for start in range(0, len(keys), 500):
        part = keys[start : start + 500]
        marks = ",".join("?" * len(part))
        rows = connection.execute(f"{SEALED[table]} WHERE key IN ({marks})", part)
        found.update((row[0], row) for row in rows if undamaged(row))
    return found
