"""A whole screen at a real size, and the verdict on it, beside training steps of the same model."""

from __future__ import annotations

import time

import torch

from benchmarks.figure import Figure, Work
from benchmarks.measure import Effort, interleaved
from benchmarks.models import threads
from benchmarks.peers import fused_step
from gradscope.numerics.costs import threads_for
from gradscope.pipeline import diagnose
from gradscope.records import ModelResult, RunSpec


class _Stopped(Exception):  # noqa: N818 - no failure
    """The verdict is known: what follows is not waited for."""


def screen(effort: Effort) -> list[Figure]:
    """All that `gradscope analyze` shows of a two-layer LSTM, and as much of it as the verdict needs."""
    hidden, length = effort.pick((512, 500), (16, 40))
    spec = RunSpec(models=(f"lstm:hidden={hidden},layers=2",), length=length)
    module = torch.nn.LSTM(16, hidden, 2, batch_first=True, dtype=torch.float64)
    x = torch.randn(8, length, 16, dtype=torch.float64)

    def stop(known: ModelResult) -> None:
        raise _Stopped

    def verdict() -> float:
        begun = time.perf_counter()
        try:
            diagnose(spec, detail=False, early=stop)
        except _Stopped:
            return time.perf_counter() - begun
        raise AssertionError("the verdict came with the spectra")

    with threads_for(2 * 2 * hidden):
        jobs = {
            "screen": lambda: diagnose(spec, detail=False),
            "verdict": verdict,
            "step": lambda: fused_step(module, x),
        }
        found = interleaved(jobs, effort)
        size = f"LSTM H={hidden} layers=2 T={length} B=8 float64, {threads()}"
    step = "fused forward + backward of nn.LSTM"
    whole = Work("a whole screen of analyze", size, found["screen"], (found.said,))
    early = Work("verdict, sentence and strip", size, found["verdict"], (found.said,))
    return [whole.price(step, found["step"], 8.0), early.price(step, found["step"], None)]
