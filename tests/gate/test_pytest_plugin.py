"""Gradient flow inside the user's own pytest runs, each a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import torch

import forked
from gradscope.errors import UsageError
from gradscope.testing import assert_gradient_flow

TESTS = """
import pytest
import torch
from gradscope.testing import assert_gradient_flow


def test_function():
    result = assert_gradient_flow("lstm:hidden=8,forget_bias=6", needs_lag=20, length=30)
    assert result.summary.reach >= 20


@pytest.mark.gradscope(needs_lag=20, length=30)
def test_fixture(gradscope):
    gradscope("rnn:hidden=8")


def test_module(gradscope):
    torch.manual_seed(0)
    gradscope(torch.nn.GRU(3, 4), torch.randn(2, 12, 3), needs_lag=1)
"""


PYTEST = ("-m", "pytest", "-q", "--strict-markers", "-p", "no:cacheprovider", "-n0")


def pytest_in(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return forked.run_text([*PYTEST, *words], cwd=folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "test_flow.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\ngradscope_baseline = flow.json\n")
    return tmp_path


def test_fixture_marker_and_function_fail_and_pass_as_they_should(folder: Path) -> None:
    missing = pytest_in(folder)
    assert "there is no baseline" in missing.stdout
    assert "pytest --gradscope-update-baseline" in missing.stdout
    (folder / "pytest.ini").unlink()
    done = pytest_in(folder)
    assert done.returncode == 1
    assert "1 failed, 2 passed" in done.stdout
    assert "VANISHING  GS101" in done.stdout
    assert "step 1 ◂" in done.stdout


def test_a_baseline_is_written_on_request_and_accepts_what_it_holds(folder: Path) -> None:
    assert pytest_in(folder, "--gradscope-update-baseline").returncode == 0
    stored = json.loads((folder / "flow.json").read_text())
    assert any("test_fixture" in name for name in stored["targets"])
    assert pytest_in(folder).returncode == 0
    (folder / "test_flow.py").rename(folder / "test_renamed.py")
    renamed = pytest_in(folder, "-k", "test_fixture or test_module", "-n2")
    assert "not in the baseline yet, so nothing holds them: test_renamed.py::test_fixture" in renamed.stdout
    # The one line that a service shows says what is wrong.
    assert re.search(r"FAILED test_renamed.py::test_fixture - AssertionError: GS10\d \w", renamed.stdout)
    (folder / "pytest.ini").write_text("[pytest]\n")
    done = pytest_in(folder, "--gradscope-update-baseline")
    assert done.returncode == 4
    assert "gradscope_baseline" in done.stderr + done.stdout
    (folder / "pytest.ini").write_text("[pytest]\ngradscope_baseline = nowhere/flow.json\n")
    done = pytest_in(folder, "--gradscope-update-baseline")
    assert done.returncode == 4
    assert f"there is no folder {folder / 'nowhere'}" in done.stderr
    (folder / "nowhere" / "flow.json").mkdir(parents=True)
    done = pytest_in(folder, "--gradscope-update-baseline", "-k", "test_module")
    assert done.returncode in (1, 4)
    assert "INTERNALERROR" not in done.stdout + done.stderr


def test_the_plugin_alone_imports_no_tensors(tmp_path: Path) -> None:
    (tmp_path / "test_light.py").write_text(
        "import sys\n\n\ndef test_light():\n    assert 'gradscope.pytest_plugin' in sys.modules\n"
        "    assert not {'torch', 'numpy'} & set(sys.modules)\n"
    )
    done = forked.started([*PYTEST], cwd=tmp_path, env={**os.environ})
    assert (done.returncode, b"1 passed" in done.stdout) == (0, True), done.stdout


def test_limits_and_wrong_settings() -> None:
    # The first line is whole, however wide the screen.
    whole = r"^GS902 The rate is 0.0\d+ nats/step, outside rate = \[-1e-06, 1e-06\]\.\n"
    with pytest.raises(AssertionError, match=whole):
        assert_gradient_flow("lstm:hidden=8,forget_bias=6", length=30, min_reach=29, rate=(-1e-6, 1e-6))
    with pytest.raises(UsageError, match="did you mean 'needs_lag'"):
        assert_gradient_flow("rnn", needs_lagg=3)
    module = torch.nn.LSTM(3, 4)
    assert_gradient_flow(module, torch.randn(2, 6, 3), needs_lag=1, fail_on="error")
    assert module.training
