"""Kills in the middle of a sweep: of the client, and of the processes that do its runs.

`python -m benchmarks.kills KILLS FOLDER` makes a sweep in FOLDER, kills KILLS processes of it with SIGKILL, lets it
come to its end, and prints what is left, beside the same sweep left in peace.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

from benchmarks.figure import Figure
from benchmarks.measure import Effort, in_new_process

RUNS_A_KILL = 6
PATIENCE = 60.0
"""Seconds in which a client must get on with its work."""


def kills(effort: Effort) -> list[Figure]:
    """Rows that are lost, double, or other than those of the same sweep left in peace."""
    import tempfile

    count = effort.pick(50, 4)
    with tempfile.TemporaryDirectory() as folder:
        told = in_new_process("benchmarks.kills", str(count), folder)
    size = (
        f"{told['runs']} runs of rnn H=4 T=12 on 2 workers; {told['clients']} clients, {told['workers']} workers killed"
    )
    names = {
        "lost": "rows that are missing",
        "double": "rows that are there twice",
        "unlike": "rows that differ in a bit",
        "undone": "finished runs that were lost by a kill",
        "damaged": "complaints of PRAGMA integrity_check",
    }
    work = f"a sweep after {count} kills with SIGKILL"
    return [Figure(work, size, name, told[key], 0, "at most", "") for key, name in names.items()]


def study(count: int, folder: Path) -> dict[str, int]:
    """Kill, go on, and compare."""
    from gradscope.sweeps.run_point import prepare

    prepare()
    killed, peace = folder / "killed.db", folder / "peace.db"
    words = ["sweep", "rnn", "--over", f"seed=0:{RUNS_A_KILL * count - 1}:1", "--hidden", "4", "--length", "12"]
    words += ["--batch", "2", "--input-size", "2", "--jobs", "2", "--retries", "99", "-q"]
    chance = random.Random(0)
    told = {"clients": 0, "workers": 0, "undone": 0}
    client = _client(words, killed, folder)
    for _ in range(count):
        before = _wait_for_more(client, killed)
        time.sleep(chance.uniform(0.0, 0.1))
        children = _children(client)
        # A client that has just ended has no workers, and there is nobody to be killed but itself.
        worker = chance.random() < 0.5 and children
        victim = chance.choice(children) if worker else client
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        told["workers" if worker else "clients"] += 1
        if not worker:
            os.waitpid(client, 0)
            client = _client(words, killed, folder)
        told["undone"] += len(before - _done(killed))
    os.waitpid(client, 0)
    for path in (killed, peace):
        os.waitpid(_client(words, path, folder), 0)
    return {**told, **_compared(killed, peace, RUNS_A_KILL * count)}


def _client(words: list[str], path: Path, folder: Path) -> int:
    """The number of a new process that runs the sweep; forked, so that importing torch is not most of the study."""
    number = os.fork()
    if number:
        return number
    try:
        from gradscope.__main__ import main

        os.chdir(folder)
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os._exit(main([*words, "-o", str(path)]))
    finally:
        os._exit(99)


def _wait_for_more(client: int, path: Path) -> set[str]:
    """What is finished, once there is more than there was when the client came, or it has ended."""
    before, deadline = _done(path), time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        now = _done(path)
        if len(now) > len(before) or not _is_running(client):
            return now
        time.sleep(0.01)
    raise SystemExit(f"no run ended within {PATIENCE:g} s")


def _is_running(number: int) -> bool:
    """Whether a child of this process has not ended yet; it is not waited for."""
    return os.waitid(os.P_PID, number, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def _done(path: Path) -> set[str]:
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=60)) as link:
            return {key for (key,) in link.execute("SELECT key FROM runs WHERE state = 'done'")}
    except sqlite3.OperationalError:
        return set()


def _children(number: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == number:
                found.append(int(entry.name))
    return found


def _compared(killed: Path, peace: Path, count: int) -> dict[str, int]:
    rows, checked = {}, []
    query = "SELECT point, state, status, summary FROM points JOIN runs USING (key) ORDER BY place"
    for path in (killed, peace):
        with closing(sqlite3.connect(path)) as link:
            rows[path] = link.execute(query).fetchall()
            checked += [text for (text,) in link.execute("PRAGMA integrity_check")]
    points = [row[0] for row in rows[killed]]
    return {
        "runs": count,
        "lost": len(set(range(count)) - {row[0] for row in rows[killed] if row[1] == "done"}),
        "double": len(points) - len(set(points)),
        "unlike": sum(one != other for one, other in zip(rows[killed], rows[peace], strict=True)),
        "damaged": len([text for text in checked if text != "ok"]),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(study(int(sys.argv[1]), Path(sys.argv[2]))))
