"""What was asked of models and what they answered: SQLite, one writer, one connection.

A call and its cost are committed together. A committed call is never made again: its key is the SHA-256 of all
that can change the answer, and of nothing else.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from nfilter.api.errors import StoreError
from nfilter.api.types import Completion, Failure, FailureKind, Message, Request
from nfilter.store.failpoints import reach
from nfilter.store.files import digest

_TABLES: Final = {
    "calls": """
CREATE TABLE IF NOT EXISTS calls (
    key TEXT PRIMARY KEY,
    answer TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    usd REAL,
    seal TEXT
) WITHOUT ROWID
""",
    "lost": """
CREATE TABLE IF NOT EXISTS lost (
    stage TEXT NOT NULL,
    model TEXT NOT NULL,
    usd REAL NOT NULL,
    at REAL NOT NULL,
    seal TEXT
)
""",
    "uses": """
CREATE TABLE IF NOT EXISTS uses (
    stage TEXT NOT NULL,
    sample TEXT NOT NULL,
    key TEXT NOT NULL,
    model TEXT NOT NULL,
    at REAL NOT NULL,
    seal TEXT,
    PRIMARY KEY (stage, sample, key)
) WITHOUT ROWID
""",
    "failed": """
CREATE TABLE IF NOT EXISTS failed (
    stage TEXT NOT NULL,
    key TEXT NOT NULL,
    model TEXT NOT NULL,
    kind TEXT NOT NULL,
    seal TEXT,
    PRIMARY KEY (stage, key)
) WITHOUT ROWID
""",
}


_UNFOUND: Final = "SELECT DISTINCT stage FROM uses WHERE key NOT IN (SELECT key FROM calls)"
_INSERT: Final = {
    "calls": "INSERT INTO calls VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
    "uses": "INSERT INTO uses VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
    "lost": "INSERT INTO lost VALUES (?, ?, ?, ?, ?)",
    "failed": "INSERT OR REPLACE INTO failed VALUES (?, ?, ?, ?, ?)",
}
_SEALED: Final = {
    "calls": "SELECT key, answer, prompt_tokens, completion_tokens, usd, seal FROM calls",
    "uses": "SELECT stage, sample, key, model, at, seal FROM uses",
    "lost": "SELECT stage, model, usd, at, seal FROM lost",
    "failed": "SELECT stage, key, model, kind, seal FROM failed",
}


# A call that another attempt may bring is in no use, and one is kept whose thought never ended: either way it failed.
_OUTCOMES: Final = """
SELECT model, kind, count(*) FROM (
    SELECT DISTINCT stage, key, model FROM uses WHERE :stage IN ('', stage) UNION
    SELECT stage, key, model FROM failed WHERE :stage IN ('', stage)
) LEFT JOIN (SELECT stage, key, kind FROM failed) USING (stage, key)
GROUP BY model, kind ORDER BY model, kind
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

    def __init__(
        self,
        path: Path,
        lenders: Sequence[Path] = (),
        complain: Callable[[str], None] | None = None,
        *,
        mend: bool = True,
    ) -> None:
        """``lenders`` are journals of finished runs, only read: what they answered is not asked again.

        What is not as it was written is taken out, and named to ``complain``; ``lacks`` tells the stages that used it. With
        ``mend`` off nothing is looked at, nor taken out.

        Raises:
            StoreError: when ``path`` is no journal, or one that SQLite cannot read any more.
        """
        self._lock = threading.Lock()
        self._path = path
        self._lenders = tuple(lender for lender in lenders if lender.is_file())
        self._doubtful: frozenset[str] = frozenset()
        self._all_doubtful = False
        self.lent = 0  # answers that this process took from lenders
        try:
            self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        except sqlite3.Error as error:
            raise _no_journal(path, error) from error
        # A text that is damaged is told from one that is not by its seal.
        self._connection.text_factory = _text
        try:
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            for table in _TABLES.values():
                self._connection.execute(table)
            for table in _SEALED:
                columns = {
                    row[1] for row in self._connection.execute(f"PRAGMA table_info({table})")
                }
                for name, kind in (("usd", "REAL"), ("seal", "TEXT")):
                    # A journal from before costs, or damage, were looked for.
                    if name not in columns and (name == "seal" or table == "calls"):
                        self._connection.execute(f"ALTER TABLE {table} ADD COLUMN {name} {kind}")
            if mend:
                self._look(complain or (lambda _: None))
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise _no_journal(path, error) from error
        except StoreError:
            self._connection.close()
            raise

    def _look(self, complain: Callable[[str], None]) -> None:
        """Take out the rows that are not as they were written."""
        (said,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if said != "ok":
            raise _no_journal(self._path, said)
        bad = {
            table: [row for row in self._connection.execute(query) if not whole(row)]
            for table, query in _SEALED.items()
        }
        if not any(bad.values()):
            return
        self._rebuild(bad)
        said = ", ".join(f"{len(rows)} of {table}" for table, rows in bad.items() if rows)
        complain(
            f"{self._path}: rows are not as they were written ({said}); the calls among them are made anew where a stage "
            "needs them, and what they cost still counts"
        )

    def _rebuild(self, bad: Mapping[str, Sequence[Sequence[Any]]]) -> None:
        """Make every table of its whole rows alone: where a damaged key stands, others are not found either."""
        db = self._connection
        db.execute("BEGIN IMMEDIATE")
        for table, query in _SEALED.items():
            db.execute(f"ALTER TABLE {table} RENAME TO damaged_{table}")
            db.execute(_TABLES[table])
            found = db.execute(query.replace(f"FROM {table}", f"FROM damaged_{table}"))
            db.executemany(_INSERT[table], (row for row in found if whole(row)))
            db.execute(f"DROP TABLE damaged_{table}")
        # What was paid was paid, whatever became of the answer.
        paid = [row[4] for row in bad["calls"]] + [row[2] for row in bad["lost"]]
        plain = [usd for usd in paid if isinstance(usd, float) and 0 < usd < math.inf]
        db.executemany(_INSERT["lost"], [_sealed("damaged", "", usd, time.time()) for usd in plain])
        # Whose a damaged use was cannot be told; a damaged call is one that somebody used and nobody finds.
        self._doubtful = frozenset(stage for (stage,) in db.execute(_UNFOUND))
        self._all_doubtful = bool(bad["uses"])
        db.execute("COMMIT")

    def lacks(self, stage: str) -> bool:
        """Whether calls that ``stage`` made may be among those that were damaged."""
        return self._all_doubtful or stage in self._doubtful

    def answers(self) -> int:
        """How many calls have an answer."""
        with self._lock:
            (count,) = self._connection.execute("SELECT count(*) FROM calls").fetchone()
        return int(count)

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
            connection.text_factory = _text
            try:
                lent = _among(connection, missing)
            except sqlite3.DatabaseError:
                # Its own run names what is wrong with it.
                lent = {}
            finally:
                connection.close()
            # The lender paid for them.
            self.commit([(key, replace(done, usd=0.0)) for key, done in lent.items()], [])
            found.update(lent)
            self.lent += len(lent)
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
                    _INSERT["calls"],
                    [
                        _sealed(
                            key,
                            json.dumps(_plain(done)),
                            int(done.prompt_tokens),
                            int(done.completion_tokens),
                            None if done.usd is None else float(done.usd),
                        )
                        for key, done in answers
                    ],
                )
                reach("journal.answers")
                self._connection.executemany(
                    _INSERT["lost"],
                    [_sealed(stage, model, float(usd), now) for stage, model, usd in lost],
                )
                self._connection.executemany(
                    _INSERT["uses"],
                    [_sealed(use.stage, use.sample, use.key, use.model, now) for use in uses],
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

    def settle(self, stage: str, model: str, kinds: Mapping[str, FailureKind | None]) -> None:
        """Note by key how calls ended: the kind of a failure, None for an answer, which takes an earlier failure back."""
        with self._lock:
            known = {
                key
                for (key,) in self._connection.execute(
                    "SELECT key FROM failed WHERE stage = ?", (stage,)
                )
            }
            mended = [(stage, key) for key, kind in kinds.items() if kind is None and key in known]
            failed = [_sealed(stage, key, model, kind) for key, kind in kinds.items() if kind]
            if mended or failed:
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.executemany(
                    "DELETE FROM failed WHERE stage = ? AND key = ?", mended
                )
                self._connection.executemany(_INSERT["failed"], failed)
                self._connection.execute("COMMIT")

    def outcomes(self, stage: str = "") -> dict[str, dict[str, Any]]:
        """What was asked of each model, of one stage or of all: ``{model: {calls, failed, kinds: {kind: calls}}}``."""
        with self._lock:
            rows = self._connection.execute(_OUTCOMES, {"stage": stage}).fetchall()
        found: dict[str, dict[str, Any]] = {}
        for model, kind, count in rows:
            of = found.setdefault(model, {"calls": 0, "failed": 0, "kinds": {}})
            of["calls"] += count
            if kind is not None:
                of["failed"] += count
                of["kinds"][kind] = count
        return found

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
                "SELECT stage FROM uses UNION SELECT stage FROM failed ORDER BY stage"
            ).fetchall()
        return [stage for (stage,) in rows]

    def forget(self, stages: Sequence[str]) -> None:
        """Forget what ``stages`` used (their answers stay): a changed stage counts its calls anew."""
        with self._lock:
            for statement in (
                "DELETE FROM uses WHERE stage = ?",
                "DELETE FROM failed WHERE stage = ?",
            ):
                self._connection.executemany(statement, [(name,) for name in stages])

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


def whole(row: Sequence[Any]) -> bool:
    """Whether a row, its seal last, is as it was written; one from before there were seals counts as whole."""
    try:
        return row[-1] is None or tuple(row) == _sealed(*row[:-1])
    except TypeError:  # bytes, where damage made a blob of a text
        return False


def _sealed(*values: Any) -> tuple[Any, ...]:
    return (*values, hashlib.blake2b(json.dumps(values).encode(), digest_size=8).hexdigest())


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _no_journal(path: Path, why: object) -> StoreError:
    return StoreError(
        f"{path}: not a journal that can be read ({why}); put a whole copy back, or move {path.parent} away and run "
        "again: all calls are then made anew"
    )


def paid_in(path: Path) -> float:
    """Dollars that the run of the journal ``path`` paid so far; 0 where there is none."""
    if not path.is_file():
        return 0.0
    # Its own run mends it, and has to know what was damaged.
    journal = Journal(path, mend=False)
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
            f"{_SEALED['calls']} WHERE key IN ({marks})",
            part,
        )
        found.update((row[0], _completion(json.loads(row[1]))) for row in rows if whole(row))
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
