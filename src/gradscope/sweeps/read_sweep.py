"""A sweep from its file, without tensors."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gradscope.errors import UsageError
from gradscope.records import Number, RunSpec
from gradscope.swept import SCHEMA, Axis, Sweep, SweepRun, flat
from gradscope.text import safe_text

DAMAGE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
MAGIC = b"SQLite format 3\0"
RUNS = (
    "SELECT point, points.seed, state, status, worst, summary, reason, seconds FROM points JOIN runs USING (key) "
    "WHERE sweep = ? ORDER BY place"
)


def is_database(path: str | Path) -> bool:
    """Whether a path is that of a database; a pipe is not looked into, for it has no second beginning."""
    try:
        if not Path(path).is_file():
            return False
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except (OSError, ValueError):
        return False


def is_sweep(content: bytes) -> bool:
    """Whether the content of a file is a sweep in JSON rather than a report."""
    return SCHEMA.encode() in content[:100]


def read_sweep(path: str | Path, wanted: Sequence[str] | None = None) -> Sweep:
    """The sweep that was last worked on in a file, as far as it has got; or the one that was written as JSON.

    Args:
        path: the file.
        wanted: which numbers of the summaries to read; all there are when None. Names that no run has are left out.

    Raises:
        UsageError: the file is no sweep, cannot be read, or is damaged.
    """
    name = safe_text(path)
    try:
        if Path(path).is_file() and not is_database(path):
            return parse_sweep(Path(path).read_bytes(), f"'{name}'")
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=60)) as link:
            schema = link.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()
            if schema != (SCHEMA,):
                raise UsageError(f"'{name}' is of another version; this one reads '{SCHEMA}'")
            # One state of the file throughout, whoever writes to it.
            link.execute("BEGIN")
            found = link.execute("SELECT id, definition FROM sweeps ORDER BY used DESC LIMIT 1").fetchone()
            if found is None:
                raise UsageError(f"'{name}' holds no sweep yet; make one: gradscope sweep MODEL --over ... -o {name}")
            return _sweep(link, found[0], json.loads(found[1]), wanted)
    except sqlite3.Error as error:
        raise UsageError(
            f"cannot read '{name}' as a sweep: {safe_text(error)}; name a file of gradscope sweep"
        ) from None
    except DAMAGE as error:
        raise _damaged(f"'{name}'", error) from None


def parse_sweep(content: bytes, name: str) -> Sweep:
    """The sweep in the JSON of a file called `name`.

    Raises:
        UsageError: it is damaged.
    """
    try:
        return _from_json(json.loads(content.decode("utf-8-sig")))
    except DAMAGE as error:
        raise _damaged(name, error) from None


def _damaged(name: str, error: Exception) -> UsageError:
    return UsageError(f"{name} is damaged ({safe_text(error, 80)}); make it again with gradscope sweep")


def _sweep(link: sqlite3.Connection, number: int, plain: dict[str, Any], wanted: Sequence[str] | None) -> Sweep:
    fields = _fields(link, number) if wanted is None else _known(link, number, wanted)
    runs = tuple(_run(row, fields) for row in link.execute(RUNS, (number,)))
    return _made(plain, fields, runs)


def _from_json(data: dict[str, Any]) -> Sweep:
    runs = tuple(
        SweepRun(
            point=run["point"],
            seed=run["seed"],
            state=run["state"],
            status=run["status"],
            worst=run["worst"],
            values=tuple(None if value is None else float(value) for value in run["values"]),
            reason=run["reason"],
            seconds=run["seconds"],
        )
        for run in data["runs"]
    )
    return _made(data, tuple(data["fields"]), runs)


def _made(plain: dict[str, Any], fields: tuple[str, ...], runs: tuple[SweepRun, ...]) -> Sweep:
    return Sweep(
        run=plain["run"],
        spec=spec_from(plain["spec"]),
        axes=tuple(Axis(axis["name"], tuple(axis["values"]), axis["kind"]) for axis in plain["axes"]),
        seeds=tuple(plain["seeds"]),
        versions=plain["versions"],
        fields=fields,
        runs=runs,
        threads=plain["threads"],
    )


def spec_from(plain: dict[str, Any]) -> RunSpec:
    """The settings that JSON holds."""
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()}
    return RunSpec(**values)


def _fields(link: sqlite3.Connection, number: int) -> tuple[str, ...]:
    """Every number that some run has, in the order in which they first occur."""
    found: dict[str, None] = {}
    for row in link.execute(RUNS, (number,)):
        if row[5] is not None:
            found.update(dict.fromkeys(flat(json.loads(row[5]))))
    return tuple(found)


def _known(link: sqlite3.Connection, number: int, wanted: Sequence[str]) -> tuple[str, ...]:
    """Those of the wanted numbers that some run has."""
    missing = dict.fromkeys(wanted)
    for row in link.execute(RUNS, (number,)):
        if row[5] is not None:
            for name in set(missing) & set(flat(json.loads(row[5]))):
                del missing[name]
            if not missing:
                break
    return tuple(name for name in dict.fromkeys(wanted) if name not in missing)


def _run(row: tuple[Any, ...], fields: tuple[str, ...]) -> SweepRun:
    point, seed, state, status, worst, summary, reason, seconds = row
    numbers: dict[str, Number] = flat(json.loads(summary)) if summary is not None else {}
    # Equal words of many rows are one text.
    state, status, worst = _same(state), _same(status), _same(worst)
    return SweepRun(
        point=point,
        seed=seed,
        state=state,
        status=status,
        worst=worst,
        values=tuple(numbers.get(name) for name in fields) if summary is not None else (),
        reason=reason or "",
        seconds=seconds,
    )


def _same(word: Any) -> Any:
    return word if word is None else sys.intern(str(word))
