"""kill -9 in the middle of a sweep: nothing that was finished is lost, nothing is there twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cli.conftest import environment

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="a source distribution has no benchmarks"),
    pytest.mark.skipif(sys.platform != "linux", reason="finds children in /proc"),
]


def test_kills_of_clients_and_workers_lose_and_double_nothing(tmp_path):
    command = [sys.executable, "-m", "benchmarks.kills", "6", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment({}), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["clients"] + told["workers"] == 6
    assert min(told["clients"], told["workers"]) >= 1
    assert {name: told[name] for name in ("lost", "double", "unlike", "undone", "damaged")} == {
        "lost": 0,
        "double": 0,
        "unlike": 0,
        "undone": 0,
        "damaged": 0,
    }
