"""A `gradscope` that gets a Ctrl-C at a known step of its training."""

from __future__ import annotations

import subprocess
from pathlib import Path

import forked

CODE = """
import os, signal
import gradscope.probe.training as train

signal.signal(signal.SIGINT, signal.default_int_handler)
followed = train.Training.{method}


def follow(self, step):
    followed(self, step)
    if step >= {step}:
        os.kill(os.getpid(), signal.SIGINT)


train.Training.{method} = follow
from gradscope.__main__ import run

run()
"""


def interrupted(words: list[str], method: str, step: int, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run it, with the signal right after `Training.method(step)`."""
    return forked.run_text(["-c", CODE.format(method=method, step=step), *words], cwd=cwd)
