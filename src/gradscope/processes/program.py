"""Workers that are programs started anew: for processes that run threads, which must not fork, or are daemons."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe, wait

from gradscope.processes.life import be_worker
from gradscope.processes.pool import GLANCE
from gradscope.processes.worker import Ending, Job, Process, Work, Worker

CODE = "from gradscope.processes.program import main; main({})"
_OWN = threading.local()


class Program:
    """A process as a worker needs it."""

    def __init__(self, started: subprocess.Popen[bytes]) -> None:
        self._started = started
        self.pid: int | None = started.pid

    @property
    def exitcode(self) -> int | None:
        """As `multiprocessing` has it: negative for a signal, None while it runs."""
        return self._started.poll()

    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._started.poll() is None

    def kill(self) -> None:
        """End it at once."""
        self._started.kill()

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended."""
        with suppress(subprocess.TimeoutExpired):
            self._started.wait(timeout)


def start_program(work: Work) -> tuple[Process, Connection]:
    """A new interpreter that does `work`, a function of a module, and the pipe to it."""
    ours, theirs = Pipe(duplex=True)
    command = [sys.executable, "-P", "-c", CODE.format(theirs.fileno())]
    started = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    theirs.close()
    ours.send(work)
    return Program(started), ours


def do_here(work: Work, job: Job, lives: int) -> Ending:
    """Do a job in a program that this thread keeps for its next ones; wait until it has ended.

    Args:
        work: a function of a module.
        job: what to do.
        lives: jobs that one program does before another takes its place.
    """
    kept: Worker | None = getattr(_OWN, "worker", None)
    if kept is None or not kept.process.is_alive():
        kept = _OWN.worker = Worker(work, start_program)
    kept.give(None, job)
    ending = None
    while ending is None:
        ending = kept.ending(bool(wait([kept.pipe], min(GLANCE, kept.patience))))
    if ending.lost or kept.done >= lives:
        kept.stop()
        _OWN.worker = None
    return ending


def main(handle: int) -> None:
    """Be the program: the work comes first through the pipe, then tasks."""
    pipe = Connection(handle)
    parent = os.getppid()
    be_worker(pipe.recv(), pipe, lambda: _wait_for_end(parent))


def _wait_for_end(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(GLANCE)
