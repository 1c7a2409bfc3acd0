"""Whole processes, from the shell's prompt to the next."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.figure import Figure, Work
from benchmarks.measure import ROOT, Effort, Job, interleaved

TORCH = "python -c 'import torch'"


def processes(effort: Effort) -> list[Figure]:
    """`gradscope analyze` against the import of torch that it cannot avoid, and the commands that avoid it."""
    with tempfile.TemporaryDirectory() as folder:
        report = str(Path(folder) / "report.json")
        _process("-m", "gradscope", "analyze", "-o", report)()
        jobs = {
            "analyze": _process("-m", "gradscope", "analyze"),
            TORCH: _process("-c", "import torch"),
            "--help": _process("-m", "gradscope", "--help"),
            "explain GS101": _process("-m", "gradscope", "explain", "GS101"),
            "show report.json": _process("-m", "gradscope", "show", report),
        }
        found = interleaved(jobs, effort)
    size = "rnn H=64 T=200 B=8 float64 (the defaults), threads as gradscope chooses"
    work = Work("gradscope analyze, whole process", size, found["analyze"], (found.said,))
    light = [
        Figure(f"gradscope {name}", "whole process, no tensors", f"gradscope {name}", found[name], unit="s")
        for name in jobs
        if name not in ("analyze", TORCH)
    ]
    return [work.price(TORCH, found[TORCH], 1.3), *light]


def _process(*arguments: str) -> Job:
    command = [sys.executable, *arguments]
    return lambda: subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
