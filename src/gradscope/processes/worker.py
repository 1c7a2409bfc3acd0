"""A process that does jobs, one after the other, and how each of them ended.

Where the platform allows, workers are forked from a process that has already imported what they need, so that each
costs milliseconds. A worker leads a session of its own: it is stopped together with whatever it started.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

from gradscope.processes.life import be_worker

START = "fork" if sys.platform == "linux" else "spawn"
"""Elsewhere a fork of a process with loaded system libraries is known to crash."""
GRACE = 5.0
"""Seconds in which a process that closed its pipe, or was killed, must be gone."""
SESSIONS = hasattr(os, "setsid")

ADRIFT = "adrift"
"""In place of a signal: the job was lost on its way, before it could have done harm."""

Work = Callable[[Any], Any]


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
    killed: str = ""
    """Name of the signal that ended the process, which may have had nothing to do with the work."""
    lost: bool = False
    """Whether the process is gone or of no more use."""


class Process(Protocol):
    """What a worker needs of the process that it is: `multiprocessing.Process` has it."""

    @property
    def pid(self) -> int | None:
        """Its number."""
        ...

    @property
    def exitcode(self) -> int | None:
        """Negative for a signal, None while it runs."""
        ...

    def is_alive(self) -> bool:
        """Whether it runs."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended."""
        ...


Start = Callable[[Work], tuple[Process, Connection]]


def start_process(work: Work) -> tuple[Process, Connection]:
    """A process of this program that does `work`, and the pipe to it."""
    context: Any = multiprocessing.get_context(START)
    ours, theirs = context.Pipe(duplex=True)
    # What is still in a buffer would be written by both sides of a fork.
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(OSError, ValueError):
                stream.flush()
    process = context.Process(target=be_worker, args=(work, theirs), daemon=False)
    process.start()
    theirs.close()
    return process, ours


class Worker:
    """A process that is given one job at a time."""

    def __init__(self, work: Work, start: Start = start_process) -> None:
        """Start it."""
        self.process, self.pipe = start(work)
        self.done = 0
        """Jobs it has ended."""
        self.name: Any = None
        """Which job it is at."""

    def give(self, name: Any, job: Job) -> None:
        """Let it begin; the clock of the job starts now."""
        self.name, self.limit, self.began = name, job.timeout, time.monotonic()
        # To a process that has died nothing can be sent; what it died of is told by `ending`.
        with suppress(OSError):
            self.pipe.send(job.task)

    @property
    def is_waiting(self) -> bool:
        """Whether it can be given a job: it lives, and has neither said anything nor closed its pipe since the last."""
        return self.process.is_alive() and not self.pipe.poll()

    @property
    def patience(self) -> float:
        """Seconds that its job has left."""
        return max(0.0, self.began + self.limit - time.monotonic())

    def ending(self, speaking: bool) -> Ending | None:
        """How its job ended; None while it goes on. `speaking` says whether something can be read from its pipe."""
        seconds = time.monotonic() - self.began
        found = None
        if speaking:
            found = self._heard(seconds)
        elif not self.process.is_alive() and not self.pipe.poll():
            found = self._death(seconds)
        elif not self.patience:
            found = Ending(reason=f"it took longer than {self.limit:g} s and was stopped", seconds=seconds, lost=True)
        self.done += found is not None
        return found

    def stop(self) -> None:
        """End it and all it has started, whatever state they are in."""
        # First its group, which may outlive it; then itself, which may not have become the head of a group yet.
        if SESSIONS and self.process.pid:
            with suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join(GRACE)
        self.pipe.close()

    def _heard(self, seconds: float) -> Ending:
        try:
            value, reason, trace = self.pipe.recv()
        except Exception:  # closed, cut off in the middle, or something that cannot be unpickled: no result either way
            self.process.join(GRACE)
            return self._death(seconds)
        return Ending(value, reason, trace, seconds)

    def _death(self, seconds: float) -> Ending:
        code = self.process.exitcode
        if code is None:
            return Ending(reason="its process closed its connection and went on", seconds=seconds, lost=True)
        if code >= 0:
            return Ending(reason=f"its process ended by itself with exit code {code}", seconds=seconds, lost=True)
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        memory = "; the system does that when memory runs out" if name == "SIGKILL" else ""
        return Ending(reason=f"its process was killed by {name}{memory}", seconds=seconds, killed=name, lost=True)
