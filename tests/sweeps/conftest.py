"""Sweeps as a user starts them, and what a file of theirs holds."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import forked
from cli.conftest import environment

WORDS = [sys.executable, "-m", "gradscope"]
SMALL = ("--length", "12", "--batch", "2", "--hidden", "4", "--input-size", "2")
MODEL = ("--batch", "4", "--hidden", "8", "--input-size", "2")
ENDS = """
import os, resource, signal, time
import torch

def make(how):
    if how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "hang":
        time.sleep(600)
    if how == "refuse":
        raise RuntimeError("no \\x1b[31mweights")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "memory":
        resource.setrlimit(resource.RLIMIT_AS, (1 << 33, 1 << 33))
        bytearray(1 << 40)
    return torch.nn.GRU(2, 4, batch_first=True)

def slow(seconds):
    time.sleep(seconds)
    return torch.nn.GRU(2, 4, batch_first=True)
"""


def gradscope(*words: str, cwd: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    return forked.run_text([*WORDS[1:], *words], cwd=cwd, env=environment(extra))


def started(*words: str, cwd: Path, **extra: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*WORDS, *words],
        cwd=cwd,
        env=environment(extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def asked(path: Path, query: str) -> list[tuple]:
    with sqlite3.connect(path, timeout=60) as link:
        return link.execute(query).fetchall()


def states(path: Path) -> dict[str, int]:
    return dict(asked(path, "SELECT state, COUNT(*) FROM runs GROUP BY state"))
