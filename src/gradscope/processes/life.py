"""The life of a worker: it does what it is given, says how that ended, and leaves without taking anything apart."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import sysconfig
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gradscope.errors import GradscopeError
from gradscope.text import safe_text

SESSIONS = hasattr(os, "setsid")
CALLED = ("torch", "numpy", "pydantic", "safetensors")
PACKAGE = Path(__file__).resolve().parents[1]


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
