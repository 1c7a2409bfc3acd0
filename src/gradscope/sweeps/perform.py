"""What happens in the process of a worker."""

from __future__ import annotations

import os
import sys

from gradscope.registry import SWEEP_RUNS, load
from gradscope.sweeps.outcome import Outcome, Task


def prepare() -> None:
    """Import what runs need, once for all workers that are forked from this process."""
    import gradscope.pipeline  # noqa: F401

    for reference in SWEEP_RUNS.values():
        load(reference)


def perform(task: Task) -> Outcome:
    """Do one run, in its folder and with its number of threads.

    Raises:
        UsageError: what it asks for cannot be had.
    """
    import torch

    if os.getcwd() != task.folder:
        os.chdir(task.folder)
    if task.folder not in sys.path:
        sys.path.append(task.folder)
    torch.set_num_threads(task.threads)
    outcome: Outcome = load(task.work)(task.spec)
    return outcome
