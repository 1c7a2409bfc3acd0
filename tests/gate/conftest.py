"""The sample project: a healthy target, one that vanishes, one that gives NaN."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cli.conftest import Finished, run, run_all

SAMPLE = Path(__file__).parent / "sample"


def sample(folder: Path) -> Path:
    """A copy of the sample project, without anything that running it left behind."""
    return shutil.copytree(SAMPLE, folder / "sample", ignore=shutil.ignore_patterns("__pycache__"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A fresh copy of the sample project."""
    return sample(tmp_path)


def check(*words: str, cwd: Path, **extra: str) -> Finished:
    """`gradscope check` as a process of its own."""
    return run("-m", "gradscope", "check", *words, cwd=cwd, **extra)


def check_all(lines: list[str], cwd: Path) -> list[Finished]:
    """Several commands, one after the other, in one process: torch is imported once."""
    return run_all([line.split() for line in lines], cwd)
