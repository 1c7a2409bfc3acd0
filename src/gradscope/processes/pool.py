"""Several workers at a time, each with one job."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from gradscope.processes.worker import Ending, Job, Start, Work, Worker, start_process

GLANCE = 0.2
"""Seconds between looks at workers that ended without a word."""

Take = Callable[[], tuple[Any, Job] | None]


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_apart(
    work: Work, jobs: Sequence[Job], at_once: int, ended: Callable[[int], None] | None = None
) -> list[Ending]:
    """`work(job.task)` for every job in a process of its own; endings in the order of the jobs.

    Args:
        work: a function of a module; what it takes and returns must be picklable.
        jobs: what to do.
        at_once: processes at the same time.
        ended: called with the place of a job as soon as it has ended.
    """
    waiting, endings = deque(enumerate(jobs)), dict[int, Ending]()
    for found in run_each(work, lambda: waiting.popleft() if waiting else None, at_once):
        if found is not None:
            place, endings[place] = found
            if ended is not None:
                ended(place)
    return [endings[place] for place in range(len(jobs))]


def run_each(
    work: Work, take: Take, at_once: int, *, lives: int = 1, start: Start = start_process
) -> Iterator[tuple[Any, Ending] | None]:
    """Do what `take` gives until it gives nothing and nothing is being done; (name, ending) as they come.

    None is given at least every `GLANCE` seconds, so that whoever waits can do other things. A worker that failed to
    stay alive is replaced.

    Args:
        work: a function of a module; what it takes and returns must be picklable.
        take: the next job with its name, or None where there is none at the moment.
        at_once: processes at the same time.
        lives: jobs that one process does before another takes its place.
        start: how a process is started.
    """
    idle, busy = list[Worker](), dict[Connection, Worker]()
    try:
        while True:
            while len(busy) < at_once and (asked := take()) is not None:
                worker = _ready(idle) or Worker(work, start)
                busy[worker.pipe] = worker
                worker.give(*asked)
            if not busy:
                return
            found = _ended(busy)
            for worker, ending in found:
                del busy[worker.pipe]
                if ending.lost or worker.done >= lives:
                    worker.stop()
                else:
                    idle.append(worker)
            yield from ((worker.name, ending) for worker, ending in found)
            if not found:
                yield None
    finally:
        # Reached with busy workers only when this process is interrupted: nothing of it may go on alone.
        for worker in (*idle, *busy.values()):
            worker.stop()


def _ready(idle: list[Worker]) -> Worker | None:
    """One of the workers that wait, if it is still there: what it died of meanwhile is not the next job's end."""
    while idle:
        worker = idle.pop()
        if worker.is_waiting:
            return worker
        worker.stop()
    return None


def _ended(busy: dict[Connection, Worker]) -> list[tuple[Worker, Ending]]:
    """Workers that gave a result, died, or ran out of time; may be none of them."""
    patience = min(GLANCE, *(worker.patience for worker in busy.values()))
    speaking = wait(list(busy), patience)
    endings = [(worker, worker.ending(pipe in speaking)) for pipe, worker in busy.items()]
    return [(worker, ending) for worker, ending in endings if ending is not None]
