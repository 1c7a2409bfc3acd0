"""What may happen to a check while it runs: kills, interrupts, full disks, readers that leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import forked
from cli.conftest import environment
from processes.test_pool import ended

STUCK = """
import os, time
with open("pid.new", "w") as file:
    file.write(str(os.getpid()))
os.replace("pid.new", "pid")
time.sleep(600)
"""
ENDS = """
import os, signal
def crash():
    os.kill(os.getpid(), signal.SIGSEGV)
def refuse():
    raise RuntimeError("no \\x1b[31mweights")
"""
TARGETS = """
[targets.good]
model = "lstm:forget_bias=5,hidden=4"
[targets.crash]
model = "ends.py:crash"
[targets.refuse]
model = "ends.py:refuse"
[targets.stuck]
model = "stuck.py:model"
timeout = 0.5
"""
HEAD = "length = 20\nbatch = 2\nneeds-lag = 10\n"
OLD = {"r.json": "old report", "base.json": '{"schema": "gradscope.baseline/1", "targets": {}, "tolerance": 1e-05}'}
COMMAND = [sys.executable, "-m", "gradscope", "check"]
FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "stuck.py").write_text(STUCK)
    (tmp_path / "ends.py").write_text(ENDS)
    (tmp_path / "gradscope.toml").write_text(HEAD + TARGETS)
    for name, content in OLD.items():
        (tmp_path / name).write_text(content)
    return tmp_path


def started(folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """A check whose one target hangs, and the process that hangs in it."""
    (folder / "gradscope.toml").write_text(HEAD + '[targets.stuck]\nmodel = "stuck.py:model"\n')
    words = ["-o", "r.json", "--baseline", "base.json", "--update-baseline"]
    process = subprocess.Popen(
        [*COMMAND, *words], cwd=folder, env=environment({}), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    for _ in range(600):
        if (folder / "pid").exists():
            return process, int((folder / "pid").read_text())
        time.sleep(0.1)
    process.kill()
    raise AssertionError("the target never started")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, -15)])
def test_a_stopped_check_leaves_old_files_whole_and_no_process(folder, number, code):
    process, worker = started(folder)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (code, b"", b"")
    assert ended(worker)
    assert {name: (folder / name).read_text() for name in OLD} == OLD
    assert {path.name for path in folder.iterdir()} - {"__pycache__"} == {
        *OLD,
        "pid",
        "stuck.py",
        "ends.py",
        "gradscope.toml",
    }


def test_targets_that_crash_or_hang_are_red_and_the_others_run(folder):
    words = ["-o", "r.json", "-o", "r.xml", "--baseline", "base.json", "--update-baseline"]
    done = forked.run_text([*COMMAND[1:], *words], cwd=folder, env=environment({}))
    assert (done.returncode, done.stderr) == (1, "")
    said = " ".join(done.stdout.split())
    assert "GS901 Not measured: its process was killed by SIGSEGV." in said
    assert "GS901 Not measured: it took longer than 0.5 s and was stopped." in said
    assert "no \\x1b[31mweights" in said
    assert " 3 failed, 1 passed in " in done.stdout
    assert '<error type="GS901"' in (folder / "r.xml").read_text()
    # What did not finish has no numbers that a baseline could hold.
    kept = (folder / "base.json").read_text()
    assert '"good"' in kept
    assert '"crash"' not in kept


def run_into(sink: int, folder: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *words], cwd=folder, env=environment({}), stdout=sink, stderr=subprocess.PIPE, timeout=120
    )


@pytest.mark.parametrize(("target", "code"), [("good", 0), ("refuse", 1)])
def test_a_reader_that_leaves_changes_no_verdict(folder, target, code):
    read, write = os.pipe()
    os.close(read)
    done = run_into(write, folder, target)
    os.close(write)
    assert (done.returncode, done.stderr) == (code, b"")


@FULL
@pytest.mark.parametrize(("target", "code"), [("good", 2), ("refuse", 1)])
def test_a_full_disk_is_never_green_and_never_hides_that_it_is_red(folder, target, code):
    with open("/dev/full", "wb") as full:
        done = run_into(full.fileno(), folder, target, "-o", "r.json", "--junit-xml", "/dev/full")
    assert done.returncode == code
    lines = done.stderr.decode().splitlines()
    assert [line[:45] for line in lines] == [
        "gradscope: cannot write '/dev/full': no space",
        "gradscope: cannot write to standard output: N",
    ]
    assert (folder / "r.json").read_text().startswith("{")
