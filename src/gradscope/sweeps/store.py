"""The file of a sweep: SQLite, one row for each run under the hash of all that decides its result.

Several processes may work on one file. A run is claimed for a while before it is begun; who works on it renews the
claim, and what a dead process had claimed goes back to the others. Results are written as they come, each in a
transaction of its own: whatever is killed, what was finished stays.
"""

from __future__ import annotations

import json
import math
import os
import socket
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


LEASE = 30.0
"""Seconds that a claim lasts unless it is renewed."""


@dataclass(frozen=True)
class Claim:
    """A run that is this process's to do."""

    key: str
    point: int
    seed: int
    tries: int
    """How often it has been begun, this time included."""


@dataclass(frozen=True)
class Result:
    """How a run ended; `state` is `done` or `failed`."""

    state: str
    status: str | None = None
    worst: str | None = None
    summary: Mapping[str, Any] | None = None
    findings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    reason: str = ""
    trace: str = ""
    seconds: float = 0.0


@contextmanager
def opened(path: str | Path) -> Iterator[Store]:
    """The store in a file, made where there is none.

    Raises:
        UsageError: the file is something else, cannot be written, or the disk is full.
    """
    name = safe_text(path)
    try:
        link = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
    except sqlite3.Error as error:
        raise unusable(name, error) from None
    try:
        refuse_others(link, name)
        write_ahead(link)
        with writing(link):
            make_tables(link)
        yield Store(link, name)
        leave_one_file(link)
    except sqlite3.Error as error:
        raise unusable(name, error) from None
    finally:
        link.close()


class Store:
    """A file that is open for working on it."""

    def __init__(self, link: sqlite3.Connection, name: str) -> None:
        self._link, self.name = link, name
        self.owner = f"{_place()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._sweep = 0
        self._after = -1

    def define(self, definition: str, runs: Iterable[tuple[int, int, str, str]]) -> None:
        """Make this sweep the one that is worked on, and write down what runs it has.

        Args:
            definition: the sweep as text; the same text is the same sweep.
            runs: (point, seed, key, settings as JSON) of each, in order. Results that are there already are kept.
        """
        link = self._link
        with writing(link):
            link.execute(
                "INSERT INTO sweeps (definition, used) VALUES (?, ?) ON CONFLICT (definition) DO UPDATE SET used = ?",
                (definition, time.time(), time.time()),
            )
            found = link.execute("SELECT id FROM sweeps WHERE definition = ?", (definition,)).fetchone()
            self._sweep = found[0]
            # The files that a run reads may be others than last time, so that its key is, too.
            link.execute("DELETE FROM points WHERE sweep = ?", (self._sweep,))
            for place, (point, seed, key, settings) in enumerate(runs):
                link.execute("INSERT OR IGNORE INTO runs (key, settings, seed) VALUES (?, ?, ?)", (key, settings, seed))
                link.execute("INSERT INTO points VALUES (?, ?, ?, ?, ?)", (self._sweep, place, point, seed, key))

    def counts(self) -> dict[str, int]:
        """How many runs of this sweep are in each state."""
        return dict(
            self._link.execute(
                "SELECT state, COUNT(*) FROM points JOIN runs USING (key) WHERE sweep = ? GROUP BY state",
                (self._sweep,),
            )
        )

    def claim(self) -> Claim | None:
        """The next run that nobody works on, from now on this process's; None where there is none at the moment."""
        link, now = self._link, time.time()
        query = (
            "SELECT place, point, points.seed, key, tries FROM points JOIN runs USING (key) WHERE sweep = ? AND "
            "place > ? AND (state = 'waiting' OR (state = 'running' AND until < ?)) ORDER BY place LIMIT 1"
        )
        with writing(link):
            found = link.execute(query, (self._sweep, self._after, now)).fetchone()
            if found is None and self._after >= 0:
                # From the start again: claims of others may have run out, and runs been given back.
                found = link.execute(query, (self._sweep, -1, now)).fetchone()
            if found is None:
                return None
            self._after, point, seed, key, tries = found
            link.execute(
                "UPDATE runs SET state = 'running', owner = ?, until = ?, tries = tries + 1 WHERE key = ?",
                (self.owner, now + LEASE, key),
            )
        return Claim(key, point, seed, tries + 1)

    def finish(self, key: str, result: Result) -> None:
        """Write down how a run ended, unless somebody else has done so in the meantime.

        A result counts whoever has it; that it failed counts only of the process that still holds the run, for another
        that took it over may come to an end with it.
        """
        self._link.execute(
            "UPDATE runs SET state = ?, owner = NULL, until = NULL, status = ?, worst = ?, summary = ?, findings = ?, "
            "notes = ?, reason = ?, trace = ?, seconds = ?, ended = ? WHERE key = ? AND (owner = ? OR (? = 'done' AND "
            "state IN ('waiting', 'running')))",
            (
                *(result.state, result.status, result.worst, _json(result.summary)),
                *(_json(result.findings), _json(result.notes), result.reason, result.trace, result.seconds),
                *(time.time(), key, self.owner, result.state),
            ),
        )

    def give_back(self, key: str | None = None) -> None:
        """Let others have a run that this process had claimed; all of them where none is named."""
        self._link.execute(
            "UPDATE runs SET state = 'waiting', owner = NULL, until = NULL WHERE state = 'running' AND owner = ? "
            "AND (? IS NULL OR key = ?)",
            (self.owner, key, key),
        )
        self._after = -1

    def renew(self) -> None:
        """Keep what this process has claimed, and free what processes of this machine had claimed that are dead."""
        link = self._link
        link.execute(
            "UPDATE runs SET until = ? WHERE state = 'running' AND owner = ?", (time.time() + LEASE, self.owner)
        )
        owners = [row[0] for row in link.execute("SELECT DISTINCT owner FROM runs WHERE state = 'running'")]
        for owner in owners:
            if _is_dead(owner):
                link.execute(
                    "UPDATE runs SET state = 'waiting', owner = NULL, until = NULL WHERE state = 'running' "
                    "AND owner = ?",
                    (owner,),
                )

    def forget_failed(self) -> None:
        """Let the runs of this sweep that failed wait for another try."""
        self._link.execute(
            "UPDATE runs SET state = 'waiting', tries = 0 WHERE state = 'failed' AND key IN "
            "(SELECT key FROM points WHERE sweep = ?)",
            (self._sweep,),
        )


def _place() -> str:
    """Where process numbers mean the same: a machine, or a container on it."""
    with suppress(OSError):
        return f"{socket.gethostname()}/{os.readlink('/proc/self/ns/pid')}".replace(":", "")
    return socket.gethostname()


def _is_dead(owner: str) -> bool:
    """Whether a process of this machine is gone."""
    host, _, rest = owner.partition(":")
    pid = rest.partition(":")[0]
    if host != _place() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(_spelled(value), allow_nan=False)


def _spelled(value: Any) -> Any:
    """Non-finite numbers by name, for JSON has no word for them."""
    if isinstance(value, Mapping):
        return {str(key): _spelled(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_spelled(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
