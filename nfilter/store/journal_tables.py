"""The tables of the journal, and the SQL statements that fill and read them."""

from __future__ import annotations

from typing import Final

TABLES: Final = {
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
    # What was asked, compressed; it has no seal, as nothing but a reader depends on it.
    "prompts": """
CREATE TABLE IF NOT EXISTS prompts (
    key TEXT PRIMARY KEY,
    asked BLOB NOT NULL
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
    "results": """
CREATE TABLE IF NOT EXISTS results (
    key TEXT PRIMARY KEY,
    result TEXT NOT NULL,
    usd REAL NOT NULL,
    seal TEXT
) WITHOUT ROWID
""",
}


STAGES_WITHOUT_ANSWERS: Final = (
    "SELECT DISTINCT stage FROM uses WHERE key NOT IN (SELECT key FROM calls)"
)
INSERT: Final = {
    "calls": "INSERT INTO calls VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
    "uses": "INSERT INTO uses VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
    "lost": "INSERT INTO lost VALUES (?, ?, ?, ?, ?)",
    "prompts": "INSERT INTO prompts VALUES (?, ?) ON CONFLICT DO NOTHING",
    "failed": "INSERT OR REPLACE INTO failed VALUES (?, ?, ?, ?, ?)",
    "results": "INSERT INTO results VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
}
# Rows without a key, which are equal only if they are the same row.
INSERT_ONCE: Final = {
    "lost": (
        "INSERT INTO lost SELECT ?1, ?2, ?3, ?4, ?5 WHERE NOT EXISTS "
        "(SELECT 1 FROM lost WHERE stage = ?1 AND model = ?2 AND usd = ?3 AND at = ?4)"
    ),
}
SEALED: Final = {
    "calls": "SELECT key, answer, prompt_tokens, completion_tokens, usd, seal FROM calls",
    "uses": "SELECT stage, sample, key, model, at, seal FROM uses",
    "lost": "SELECT stage, model, usd, at, seal FROM lost",
    "failed": "SELECT stage, key, model, kind, seal FROM failed",
    "results": "SELECT key, result, usd, seal FROM results",
}


# Both count as failed: a call that may succeed if repeated has no row in `uses`, one with unclosed reasoning has one.
OUTCOMES: Final = """
SELECT model, kind, count(*) FROM (
    SELECT DISTINCT stage, key, model FROM uses WHERE :stage IN ('', stage) UNION
    SELECT stage, key, model FROM failed WHERE :stage IN ('', stage)
) LEFT JOIN (SELECT stage, key, kind FROM failed) USING (stage, key)
GROUP BY model, kind ORDER BY model, kind
"""


# What another journal has of one stage; of all stages if :stage is NULL.
OF_STAGE: Final = {
    "uses": " WHERE :stage IS NULL OR stage = :stage",
    "failed": " WHERE :stage IS NULL OR stage = :stage",
    "calls": " WHERE :stage IS NULL OR key IN (SELECT key FROM uses WHERE stage = :stage)",
}
USED_IN_STAGE: Final = "SELECT stage, key FROM uses WHERE :stage IS NULL OR stage = :stage"
ASKED_IN_STAGE: Final = """
SELECT key, asked FROM prompts WHERE :stage IS NULL OR key IN (SELECT key FROM uses WHERE stage = :stage)
"""
