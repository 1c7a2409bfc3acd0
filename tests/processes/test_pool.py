"""Real processes that end in every way a process can: each is one ending, and the others go on."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch

from gradscope import memory
from gradscope.errors import UsageError
from gradscope.text import safe_text
from gradscope.workers import Job, reason_of, run_each

PROGRAM = """
import json, os, resource, signal, subprocess, sys, time
from gradscope.errors import UsageError
from gradscope.workers import run_apart
from gradscope.workers import Job

def work(task):
    name, value = task
    return WAYS[name](value)

def loud(value):
    print("loud"); sys.stdout.flush(); os.write(1, b"louder")
    return value

def greedy(value):
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    return len(bytearray(1 << 40))

def parent(value):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    return child.pid

def refused(value):
    raise UsageError("no such thing; give another")

def late(value):
    begun = time.monotonic()
    time.sleep(value)
    return begun, time.monotonic()

def meet(value):
    open(str(os.getpid()), "w").close()
    while sum(name.isdigit() for name in os.listdir()) < value:
        time.sleep(0.01)
    return value

WAYS = {
    "fine": lambda value: value * 2,
    "loud": loud,
    "segv": lambda value: os.kill(os.getpid(), signal.SIGSEGV),
    "kill": lambda value: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda value: os._exit(value),
    "leave": lambda value: sys.exit(value),
    "raise": lambda value: 1 // value,
    "refused": refused,
    "greedy": greedy,
    "hang": lambda value: time.sleep(600),
    "deaf": lambda value: (signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32)), time.sleep(600)),
    "odd": lambda value: (lambda: None),
    "parent": parent,
    "asks": lambda value: input(),
    "late": late,
    "meet": meet,
}

if __name__ == "__main__":
    asked, at_once = json.load(sys.stdin)
    ended = []
    jobs = [Job((name, value), timeout) for name, value, timeout in asked]
    found = run_apart(work, jobs, at_once, ended.append)
    json.dump([[[e.value, e.reason, e.trace, e.seconds] for e in found], ended], sys.stdout)
"""

ASKED = [
    ("fine", 21, 60),
    ("loud", 1, 60),
    ("segv", 0, 60),
    ("kill", 0, 60),
    ("exit", 0, 60),
    ("exit", 7, 60),
    ("leave", 3, 60),
    ("raise", 0, 60),
    ("refused", 0, 60),
    ("greedy", 0, 60),
    ("hang", 0, 0.3),
    ("deaf", 0, 0.3),
    ("odd", 0, 60),
    ("parent", 0, 60),
    ("asks", 0, 60),
    ("fine", 2, 60),
]
WHY = [
    "",
    "",
    "its process was killed by SIGSEGV",
    "its process was killed by SIGKILL; the system does that when memory runs out",
    "its process ended by itself with exit code 0",
    "its process ended by itself with exit code 7",
    "SystemExit: 3",
    "ZeroDivisionError: integer division or modulo by zero",
    "no such thing; give another",
    "MemoryError",
    "it took longer than 0.3 s and was stopped",
    "it took longer than 0.3 s and was stopped",
    None,
    "",
    "EOFError: EOF when reading a line",
    "",
]


def run(asked, at_once, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=tmp_path,
        input=json.dumps([asked, at_once]),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    return run(ASKED, 4, tmp_path_factory.mktemp("jobs"))


@pytest.mark.parametrize("place", range(len(ASKED)), ids=[f"{name}-{value}" for name, value, _ in ASKED])
def test_every_way_to_end_is_an_ending_with_its_reason(every, place):
    (endings, _), _ = every
    value, reason, trace, seconds = endings[place]
    if WHY[place] is None:
        assert re.match(r"(AttributeError|PicklingError): Can't (get local|pickle)", reason)
        assert value is None
    else:
        assert reason == WHY[place]
    assert bool(trace) == bool(re.match(r"[A-Z]\w+(Error|Exit)", reason) or ASKED[place][0] == "refused")
    assert seconds > 0


def test_values_come_back_in_the_order_of_the_jobs(every):
    (endings, ended), _ = every
    assert [endings[0][0], endings[1][0], endings[-1][0]] == [42, 1, 4]
    assert sorted(ended) == list(range(len(ASKED)))


def test_what_a_worker_prints_is_not_on_standard_output(every):
    _, told = every
    assert "loud" in told
    assert "louder" in told


def test_nothing_that_a_worker_started_goes_on(every):
    (endings, _), _ = every
    assert ended(endings[[name for name, *_ in ASKED].index("parent")][0])


def test_several_run_at_the_same_time(tmp_path):
    (endings, _), _ = run([("meet", 3, 60)] * 3, 3, tmp_path)
    assert [value for value, *_ in endings] == [3, 3, 3]


def test_a_worker_that_died_while_it_waited_is_given_no_job():
    died, started = threading.Event(), []

    def start(work):
        ours, theirs = multiprocessing.Pipe()
        process = SimpleNamespace(pid=None, exitcode=None, kill=lambda: None, join=lambda timeout: None)
        process.is_alive = lambda: process.exitcode is None
        started.append(process)

        def serve():
            theirs.send((work(theirs.recv()), "", ""))
            if len(started) == 1:
                process.exitcode = 9
                theirs.close()
                died.set()

        threading.Thread(target=serve, daemon=True).start()
        return process, ours

    jobs = [("one", Job(1, 60)), ("two", Job(2, 60))]

    def take():
        if len(jobs) == 1:
            died.wait(60)
        return jobs.pop(0) if jobs else None

    ends = [end for end in run_each(lambda task: 10 * task, take, 1, lives=5, start=start) if end is not None]
    assert [(name, ending.value, ending.reason) for name, ending in ends] == [("one", 10, ""), ("two", 20, "")]
    assert len(started) == 2


@pytest.mark.parametrize(("stat", "left"), [("anon 5\ninactive_file 7000\nactive_file 900\n", 7100), ("", 100)])
def test_copies_of_files_do_not_count_as_memory_in_use(tmp_path, monkeypatch, stat, left):
    for name, text in {"memory.max": "8000\n", "memory.current": "7900\n", "memory.stat": stat}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    assert memory.available_bytes() == left


def test_no_more_run_at_the_same_time_than_asked(tmp_path):
    (endings, _), _ = run([("late", 0.1, 60)] * 5, 2, tmp_path)
    spans = [value for value, *_ in endings]
    assert max(sum(begun <= moment < end for begun, end in spans) for moment, _ in spans) <= 2


def ended(pid: int) -> bool:
    """Whether a process is gone, or no more than a line in the table of processes, within ten seconds."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.1)
    return False


def _theirs(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: _theirs(ValueError("mine")), "ValueError: mine"),
        (lambda: torch.stack([torch.zeros(1), torch.zeros(2)]), "RuntimeError: stack expects"),
        (lambda: _theirs(UsageError("no such file")), "no such file"),
    ],
)
def test_an_error_of_the_users_code_is_theirs(call, said):
    with pytest.raises((ValueError, RuntimeError, UsageError)) as caught:
        call()
    assert reason_of(caught.value).startswith(said)


def test_an_error_of_ours_is_called_a_bug_and_not_their_code():
    with pytest.raises(TypeError) as caught:
        safe_text("x", limit="y")
    assert re.fullmatch(r"a bug in gradscope \(TypeError: .*\), not in your code", reason_of(caught.value))
