"""Work done in processes of its own, several at a time: what happens to one of them happens to no other.

Where the platform allows, workers are forked from a process that has already imported what they need, so that each
costs milliseconds. A worker leads a session of its own: it is stopped together with whatever it started.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from gradscope.errors import GradscopeError
from gradscope.text import safe_text

START = "fork" if sys.platform == "linux" else "spawn"
"""Elsewhere a fork of a process with loaded system libraries is known to crash."""
GLANCE = 0.2
"""Seconds between looks at workers that ended without a word."""
GRACE = 5.0
"""Seconds in which a process that closed its pipe, or was killed, must be gone."""
SESSIONS = hasattr(os, "setsid")


@dataclass(frozen=True)
class Job:
    """One piece of work, and how many seconds it may take."""

    task: Any
    timeout: float


@dataclass(frozen=True)
class Ending:
    """How a job ended: with a value, or with the reason why there is none."""

    value: Any = None
    reason: str = ""
    trace: str = ""
    """The traceback of an error that the work raised."""
    seconds: float = 0.0


@dataclass
class _Worker:
    place: int
    process: Any
    pipe: Connection
    began: float
    deadline: float


def run_apart(
    work: Callable[[Any], Any], jobs: Sequence[Job], at_once: int, ended: Callable[[int], None] | None = None
) -> list[Ending]:
    """`work(job.task)` for every job, at most `at_once` at the same time; endings in the order of the jobs.

    Args:
        work: a function of a module; what it takes and returns must be picklable.
        jobs: what to do.
        at_once: processes at the same time.
        ended: called with the place of a job as soon as it has ended.
    """
    waiting, workers = deque(range(len(jobs))), dict[Connection, _Worker]()
    endings: dict[int, Ending] = {}
    try:
        while waiting or workers:
            while waiting and len(workers) < at_once:
                worker = _start(work, jobs[waiting[0]], waiting.popleft())
                workers[worker.pipe] = worker
            for worker, ending in _ended(workers):
                del workers[worker.pipe]
                _stop(worker)
                endings[worker.place] = ending
                if ended is not None:
                    ended(worker.place)
    finally:
        # Reached with workers only when this process is interrupted: nothing of it may go on alone.
        for worker in workers.values():
            _stop(worker)
    return [endings[place] for place in range(len(jobs))]


def _start(work: Callable[[Any], Any], job: Job, place: int) -> _Worker:
    context: Any = multiprocessing.get_context(START)
    ours, theirs = context.Pipe(duplex=False)
    # What is still in a buffer would be written by both sides of a fork.
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(OSError, ValueError):
                stream.flush()
    process = context.Process(target=_be_worker, args=(work, job.task, theirs), daemon=False)
    process.start()
    theirs.close()
    now = time.monotonic()
    return _Worker(place, process, ours, now, now + job.timeout)


def _ended(workers: dict[Connection, _Worker]) -> list[tuple[_Worker, Ending]]:
    """Workers that gave a result, died, or ran out of time; may be none of them."""
    now = time.monotonic()
    patience = min(GLANCE, *(max(0.0, worker.deadline - now) for worker in workers.values()))
    speaking = wait(list(workers), patience)
    found = []
    for pipe, worker in workers.items():
        seconds = time.monotonic() - worker.began
        if pipe in speaking:
            found.append((worker, _heard(worker, seconds)))
        elif not worker.process.is_alive() and not pipe.poll():
            found.append((worker, Ending(reason=_death(worker), seconds=seconds)))
        elif time.monotonic() >= worker.deadline:
            limit = worker.deadline - worker.began
            found.append((worker, Ending(reason=f"it took longer than {limit:g} s and was stopped", seconds=seconds)))
    return found


def _heard(worker: _Worker, seconds: float) -> Ending:
    try:
        value, reason, trace = worker.pipe.recv()
    except Exception:  # closed, cut off in the middle, or something that cannot be unpickled: no result either way
        worker.process.join(GRACE)
        return Ending(reason=_death(worker), seconds=seconds)
    return Ending(value, reason, trace, seconds)


def _death(worker: _Worker) -> str:
    code = worker.process.exitcode
    if code is None:
        return "its process closed its connection and went on"
    if code >= 0:
        return f"its process ended by itself with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    memory = "; the system does that when memory runs out" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{memory}"


def _stop(worker: _Worker) -> None:
    """End a worker and all it has started, whatever state they are in."""
    process = worker.process
    # First its group, which may outlive it; then itself, which may not have become the head of a group yet.
    if SESSIONS:
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join(GRACE)
    worker.pipe.close()


def _be_worker(work: Callable[[Any], Any], task: Any, pipe: Connection) -> None:
    """The life of a worker: it says how it ended, and leaves without taking anything apart."""
    _settle()
    try:
        said = (work(task), "", "")
    except BaseException as error:  # the user's code may raise anything, and leaving is no result
        said = (None, _reason(error), traceback.format_exc())
    try:
        pipe.send(said)
    except Exception as error:  # a result that cannot be pickled is a failure to be told, too
        pipe.send((None, _reason(error), traceback.format_exc()))
    pipe.close()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(0)


def _settle() -> None:
    """Stand apart: a session of its own, no input, no word on standard output, and no life after the parent's."""
    if SESSIONS:
        with suppress(OSError):
            os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    # Standard output belongs to the report; what the user's code prints is told beside it.
    os.dup2(2, 1)
    gc.enable()
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    if SESSIONS:
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _reason(error: BaseException) -> str:
    said = safe_text(error, 400)
    return said if isinstance(error, GradscopeError) and said else f"{type(error).__name__}: {said}".rstrip(": ")
