"""Work done in processes of its own: what happens to one of them happens to no other.

A process that does jobs, one after the other, and how each of them ended.
Where the platform allows, workers are forked from a process that has already imported what they need, so that each
costs milliseconds. A worker leads a session of its own: it is stopped together with whatever it started.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import sysconfig
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any, Protocol

from gradscope.errors import GradscopeError
from gradscope.text import safe_text

SESSIONS = hasattr(os, "setsid")
CALLED = ("torch", "numpy", "pydantic", "safetensors")
PACKAGE = Path(__file__).resolve().parent


def be_worker(work: Callable[[Any], Any], pipe: Connection, follow: Callable[[], None] | None = None) -> None:
    """Do `work` on every task that comes through the pipe, until it is closed.

    Args:
        work: what to do.
        pipe: where tasks come from, and (value, reason, traceback) go to.
        follow: returns once the process that started this one has ended.
    """
    _settle(follow or _parent_ends)
    with suppress(EOFError, OSError):
        while True:
            _one(work, pipe.recv(), pipe)
    _leave()


def _one(work: Callable[[Any], Any], task: Any, pipe: Connection) -> None:
    try:
        said = (work(task), "", "")
    except BaseException as error:  # the user's code may raise anything, and leaving is no result
        said = (None, reason_of(error), traceback.format_exc())
    # What was printed is told before the result is: the next thing that happens may be the end of this process.
    _flush()
    try:
        pipe.send(said)
    except (BrokenPipeError, ConnectionResetError):
        _leave()
    except Exception as error:  # a result that cannot be pickled is a failure to be told, too
        pipe.send((None, _named(error), traceback.format_exc()))


def reason_of(error: BaseException) -> str:
    """An error in one line, and whose it is where it is not the user's."""
    said = safe_text(error, 400)
    if isinstance(error, GradscopeError) and said:
        return said
    what = _named(error)
    return f"a bug in gradscope ({what}), not in your code" if _is_ours(error) else what


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {safe_text(error, 400)}".rstrip(": ")


def _is_ours(error: BaseException) -> bool:
    """Whether it came out of gradscope without any of the user's code on its way."""
    if not isinstance(error, Exception) or isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__:
        return False
    files = [Path(frame.f_code.co_filename) for frame, _ in traceback.walk_tb(error.__traceback__)]
    return PACKAGE in files[-1].parents or not any(_is_users(file) for file in files) if files else False


def _is_users(file: Path) -> bool:
    """Anything but gradscope, what it calls itself, and Python's own."""
    paths = sysconfig.get_paths()
    for site in map(Path, (paths["purelib"], paths["platlib"])):
        if site in file.parents:
            return file.relative_to(site).parts[0] not in CALLED and PACKAGE not in file.parents
    return not {PACKAGE, Path(paths["stdlib"])}.intersection(file.parents) and not str(file).startswith("<")


def _settle(follow: Callable[[], None]) -> None:
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
    threading.Thread(target=_end_with, args=(follow,), daemon=True).start()


def _end_with(follow: Callable[[], None]) -> None:
    follow()
    if SESSIONS:
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _parent_ends() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()


def _leave() -> None:
    _flush()
    os._exit(0)


START = "fork" if sys.platform == "linux" else "spawn"
"""Elsewhere a fork of a process with loaded system libraries is known to crash."""
GRACE = 5.0
"""Seconds in which a process that closed its pipe, or was killed, must be gone."""

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


CODE = "from gradscope.workers import main; main({})"
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
