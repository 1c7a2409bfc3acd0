"""Processes of `python -m gradscope`, or of other Python, that are there at once: forks of one that has loaded torch.

Most of a short run is the import of torch. Each of these is a process of its own all the same, with its own folder,
environment, descriptors, signals and exit code, and imports gradscope itself anew. Whatever a test sets that Python
reads as it starts (its encoding, say) needs a start of its own: `run` falls back to one by itself. Whoever asks what
gets imported must start Python with `started`.
"""

from __future__ import annotations

import atexit
import itertools
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import types
from functools import cache
from pathlib import Path
from typing import Any

ROOM = 2**20
USUAL = {"PYTHONIOENCODING": "utf-8", "OMP_NUM_THREADS": "1"}
AT_START = ("PYTHON", "OMP_", "LC_", "LANG", "MALLOC_", "LD_")
"""Beginnings of the names of variables that are read once, by the interpreter or by libraries as they load."""


def run_text(command: list[str], **more: Any) -> subprocess.CompletedProcess[str]:
    """`run` with what was printed as text."""
    done = run(command, **more)
    out, err = (stream.decode("utf-8", "backslashreplace") for stream in (done.stdout, done.stderr))
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


def run(
    command: list[str], *, cwd: Path | None = None, env: dict[str, str] | None = None, timeout: float = 240
) -> subprocess.CompletedProcess[bytes]:
    """What `subprocess.run([sys.executable, *command])` gives, for commands that begin with `-m` or `-c`."""
    cwd, env = cwd or Path.cwd(), {**os.environ, **USUAL} if env is None else env
    if _at_start(env) != _at_start({**os.environ, **USUAL}):
        return started(command, cwd=cwd, env=env, timeout=timeout)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, open(os.devnull, "rb") as nothing:
        code = _forked(command, cwd, env, [nothing.fileno(), out.fileno(), err.fileno()], timeout)
        for stream in (out, err):
            stream.seek(0)
        return subprocess.CompletedProcess(command, code, out.read(), err.read())


def started(
    command: list[str], *, cwd: Path, env: dict[str, str], timeout: float = 240
) -> subprocess.CompletedProcess[bytes]:
    """The same from an interpreter that has loaded nothing."""
    words = [sys.executable, *command]
    return subprocess.run(words, cwd=cwd, env=env, capture_output=True, timeout=timeout, check=False)


def _at_start(env: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(AT_START)}


def _forked(command: list[str], cwd: Path, env: dict[str, str], streams: list[int], timeout: float) -> int:
    server = _server(next(_TURN) % 2)
    asked = json.dumps([command, str(cwd), env]).encode()
    assert len(asked) < ROOM
    socket.send_fds(server, [asked], streams)
    pid = int(server.recv(64))
    server.settimeout(timeout)
    try:
        return int(server.recv(64))
    except TimeoutError:
        os.kill(pid, signal.SIGKILL)
        server.settimeout(None)
        server.recv(64)
        raise subprocess.TimeoutExpired(command, timeout) from None
    finally:
        server.settimeout(None)


_TURN = itertools.count()


@cache
def _server(which: int) -> socket.socket:
    """A process that has torch loaded; it ends with pytest's own.

    There are two, which take turns: text hashes differently in each, so that two runs are equal only if they are so
    whatever the order of sets.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command, handed = [sys.executable, __file__, str(theirs.fileno())], [theirs.fileno()]
    serving = subprocess.Popen(command, pass_fds=handed, env={**os.environ, **USUAL})
    theirs.close()

    def end() -> None:
        ours.close()
        serving.wait()

    atexit.register(end)
    return ours


def serve(ours: socket.socket) -> None:
    """Fork for every request, tell the number of the process, then how it ended."""
    import torch  # noqa: F401

    while True:
        asked, streams, _, _ = socket.recv_fds(ours, ROOM, 3)
        if not asked:
            os._exit(0)
        pid = os.fork()
        if not pid:
            ours.close()
            _become(*json.loads(asked), streams)
        for number in streams:
            os.close(number)
        ours.send(str(pid).encode())
        ours.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())


def _become(command: list[str], cwd: str, env: dict[str, str], streams: list[int]) -> None:
    """Be the process that `python command` is."""
    for target, number in enumerate(streams):
        os.dup2(number, target)
        os.close(number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    option, what, *words = command
    sys.argv, sys.path[0] = [option, *words], cwd if option == "-m" else ""
    try:
        if option == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            sys.modules["__main__"] = main = types.ModuleType("__main__")
            exec(compile(what, "<string>", "exec"), main.__dict__)
    except SystemExit as leaving:
        sys.stdout.flush()
        os._exit(leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None))
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.argv, number = [sys.argv[0]], int(sys.argv[1])
    serve(socket.socket(fileno=number))
