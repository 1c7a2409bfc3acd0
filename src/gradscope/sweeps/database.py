"""What SQLite is told about the file of a sweep: whose it is, what is in it, how it is written."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from gradscope.errors import UsageError
from gradscope.swept import SCHEMA
from gradscope.text import safe_text

APPLICATION = 0x67735731
"""Tells SQLite, and `file`, whose file it is."""
PATIENCE = 60.0
"""Seconds to wait for another process that is writing."""
TABLES = f"""
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO meta VALUES ('schema', '{SCHEMA}');
CREATE TABLE IF NOT EXISTS sweeps (
    id INTEGER PRIMARY KEY, definition TEXT NOT NULL UNIQUE, used REAL NOT NULL);
CREATE TABLE IF NOT EXISTS runs (
    key TEXT PRIMARY KEY, settings TEXT NOT NULL, seed INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting', owner TEXT, until REAL, tries INTEGER NOT NULL DEFAULT 0,
    status TEXT, worst TEXT, summary TEXT, findings TEXT, notes TEXT, reason TEXT, trace TEXT, seconds REAL, ended REAL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS points (
    sweep INTEGER NOT NULL REFERENCES sweeps, place INTEGER NOT NULL, point INTEGER NOT NULL, seed INTEGER NOT NULL,
    key TEXT NOT NULL REFERENCES runs, PRIMARY KEY (sweep, place)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS running ON runs (owner) WHERE state = 'running';
"""


def make_tables(link: sqlite3.Connection) -> None:
    """Make what is not there yet."""
    link.execute(f"PRAGMA application_id = {APPLICATION}")
    for statement in TABLES.strip().split(";\n"):
        link.execute(statement)


@contextmanager
def writing(link: sqlite3.Connection) -> Iterator[None]:
    """All or nothing."""
    link.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        # Where the disk is full, SQLite has done so itself.
        if link.in_transaction:
            link.execute("ROLLBACK")
        raise
    link.execute("COMMIT")


def refuse_others(link: sqlite3.Connection, name: str) -> None:
    """Refuse another program's database, or one of another version."""
    found = link.execute("PRAGMA application_id").fetchone()[0]
    if found == APPLICATION:
        schema = link.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()
        if schema != (SCHEMA,):
            said = safe_text(schema[0] if schema else "none", 40)
            raise UsageError(f"'{name}' has schema '{said}', this version works on '{SCHEMA}'; name another file")
        return
    if link.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
        raise UsageError(f"'{name}' is the database of another program; name another file")


def write_ahead(link: sqlite3.Connection) -> None:
    """Let readers and a writer be at work at the same time; a finished run is not lost when a process is killed."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            link.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError:
            # Somebody else makes the same file at this moment; SQLite does not wait for that by itself.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    link.execute("PRAGMA synchronous=NORMAL")


def leave_one_file(link: sqlite3.Connection) -> None:
    """Leave no files beside it, so that it can be copied, and read where nothing can be written."""
    link.execute("PRAGMA busy_timeout=0")
    with suppress(sqlite3.OperationalError):  # others are still at work on it, and will do it
        link.execute("PRAGMA journal_mode=DELETE")


def unusable(name: str, error: sqlite3.Error) -> UsageError:
    """One line for what SQLite complains of."""
    return UsageError(f"cannot use '{name}' for a sweep: {safe_text(error)}; name a file you can write to")
