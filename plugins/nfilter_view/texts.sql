-- The texts of a run, and a full-text table over them; `found` keeps no text of its own. Beginnings of
-- two and four letters are indexed, which serves those of one and three as well: without it their words are merged, in seconds.
CREATE TABLE rows (n INTEGER PRIMARY KEY, id TEXT NOT NULL, chunk INTEGER NOT NULL, question TEXT NOT NULL,
    given TEXT, now TEXT, reason TEXT NOT NULL, truth TEXT);
CREATE TABLE kinds (code INTEGER PRIMARY KEY, text TEXT NOT NULL, rows INTEGER NOT NULL);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE VIRTUAL TABLE found USING fts5(body, content='', columnsize=0, tokenize='unicode61', prefix='2 4');
