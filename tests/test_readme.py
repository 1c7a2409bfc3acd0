"""README.md says what is true: its screen is what the command prints, and every command in it runs."""

from __future__ import annotations

import math
import os
import re
import shlex
import struct
import subprocess
import sys
import wave
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
LINES = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
COMMANDS = [line for line in LINES if line.startswith("gradscope ")]


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "COLUMNS": "80", "PYTHONIOENCODING": "utf-8", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "gradscope", *words]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files that the commands name."""
    rows = [f"{math.sin(t / 5):.4f},{math.cos(t / 7):.4f},{t}" for t in range(120)]
    (tmp_path / "prices.csv").write_text("open,close,volume\n" + "\n".join(rows) + "\n")
    (tmp_path / "book.txt").write_text("It was the best of times, it was the worst of times. " * 20)
    with wave.open(str(tmp_path / "recording.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", "not compressed"))
        sound.writeframes(b"".join(struct.pack("<h", int(9000 * math.sin(t / 9))) for t in range(4000)))
    return tmp_path


def test_the_screen_is_what_the_command_prints(tmp_path: Path) -> None:
    shown = re.search(r"```console\n\$ gradscope (.*?)\n(.*?)```", README, re.DOTALL)
    assert shown is not None
    found = run(shlex.split(shown[1]), tmp_path)
    # The residual of the chain rule is rounding, which differs between processors.
    printed, promised = (re.sub(r"off by \S+", "off by rounding", text.strip()) for text in (found.stdout, shown[2]))
    assert printed == promised


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_runs(command: str, folder: Path) -> None:
    words = shlex.split(command)[1:]
    if words == ["show", "report.json"]:
        assert run(["analyze", "rnn", "-o", "report.json"], folder).returncode == 0
    found = run(words, folder)
    assert (found.returncode, found.stderr) == (0, "")
    assert len(found.stdout) > 200


def test_the_python_code_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.split()[0] in ("vanishing", "healthy")


def test_there_are_exactly_two_set_up_commands() -> None:
    assert len([line for line in LINES if "pip install" in line]) == 2
    assert len(COMMANDS) > 10
