"""gradscope as a user starts it: a process of its own, in an empty folder, with nothing set."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

import forked

SGR = re.compile(r"\x1b\[[0-9;]*m")
CLEARED = ("GRADSCOPE_", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "GITHUB_", "PYTHONIOENCODING", "PYTHONUTF8")


@dataclass(frozen=True)
class Finished:
    """What a process left behind, without colours."""

    code: int
    out: str
    err: str


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(CLEARED)}
    return {**kept, "PYTHONIOENCODING": "utf-8", "OMP_NUM_THREADS": "1", **extra}


def run(*command: str, cwd: Path, anew: bool = False, **extra: str) -> Finished:
    done = (forked.started if anew else forked.run)([*command], cwd=cwd, env=environment(extra), timeout=120)
    out, err = (SGR.sub("", stream.decode("utf-8", "backslashreplace")) for stream in (done.stdout, done.stderr))
    return Finished(done.returncode, out, err)


@pytest.fixture
def gradscope(tmp_path: Path) -> Callable[..., Finished]:
    """`gradscope("analyze", "lstm", NO_COLOR="1")`: words are arguments, names are environment variables."""
    return lambda *words, **extra: run("-m", "gradscope", *words, cwd=tmp_path, **extra)


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., Finished]:
    """A few lines of Python in the same surroundings, in an interpreter that has loaded nothing."""
    return lambda code, **extra: run("-c", code, cwd=tmp_path, anew=True, **extra)


BATCH = """
import io, json, os, sys
from gradscope.__main__ import main
found = []
for line in json.load(sys.stdin):
    sys.stdout, sys.stderr = (io.TextIOWrapper(io.BytesIO(), 'utf-8', write_through=True) for _ in range(2))
    code = main(line)
    found.append([code, *(stream.buffer.getvalue().decode() for stream in (sys.stdout, sys.stderr))])
json.dump(found, sys.__stdout__)
"""


def run_all(lines: list[list[str]], cwd: Path) -> list[Finished]:
    """Many short runs in one process: Python's own start would be most of the time."""
    done = subprocess.run(
        [sys.executable, "-c", BATCH],
        input=json.dumps(lines),
        cwd=cwd,
        env=environment({}),
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=True,
    )
    return [Finished(code, SGR.sub("", out), SGR.sub("", err)) for code, out, err in json.loads(done.stdout)]


@pytest.fixture(scope="module")
def all_of(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Finished]:
    """What each of the module's LINES gave, by line."""
    lines: list[str] = request.module.LINES
    found = run_all([line.split() for line in lines], tmp_path_factory.mktemp("batch"))
    return dict(zip(lines, found, strict=True))


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small saved report, measured once."""
    folder = tmp_path_factory.mktemp("report")
    done = run(
        *("-m", "gradscope", "analyze", "rnn:hidden=4", "--length", "12", "--batch", "2", "-q", "-o", "report.json"),
        cwd=folder,
    )
    assert (done.code, done.err) == (0, "")
    return folder / "report.json"
