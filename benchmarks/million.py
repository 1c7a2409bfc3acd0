"""A million steps: `python -m benchmarks.million STEPS` does the work once and prints its seconds and peak memory."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import torch

from benchmarks.figure import Figure, Work
from benchmarks.measure import Effort, Job, fitting_length, in_new_process, interleaved
from benchmarks.models import final_loss, model, module_of, sequence, threads
from benchmarks.peers import fused_step
from gradscope.metrics import influence
from gradscope.numerics.analysis import Analysis, Run
from gradscope.numerics.costs import threads_for
from gradscope.numerics.lyapunov import lyapunov
from gradscope.records import RunSpec

HIDDEN, EXPONENTS = 64, 8
GOAL_STEPS = 1_000_000
GIB = 2**30


def million(effort: Effort) -> list[Figure]:
    """Gradients, leading exponents and reach of a long sequence: time beside training, growth and memory."""
    lengths = effort.pick((GOAL_STEPS, 500_000, 200_000, 100_000), (1000,))
    rnn = model("rnn", HIDDEN, torch.float32)
    module = module_of(rnn)

    def fused(length: int) -> Job:
        x = sequence(1, length, torch.float32)
        return lambda: fused_step(module, x)

    with threads_for(HIDDEN):
        length, notes = fitting_length(lengths, lambda n: both(measured(n), fused(n)), effort)
        jobs = {"gradscope": measured(length), "fused": fused(length), "tenth": measured(length // 10)}
        found = interleaved(jobs, effort)
        size = f"tanh RNN H={HIDDEN} T={length:,} B=1 float32, {threads()}"
    name = f"gradients, leading {EXPONENTS} exponents, reach"
    work = Work(name, size, found["gradscope"], (found.said, *notes))
    grown = work.price(f"itself at T={length // 10:,}", found["tenth"], 11.0)
    return [work.price("fused forward + backward of nn.RNN", found["fused"], 10.0), grown, _memory(work, effort)]


def measured(length: int) -> Job:
    """The work on a sequence of `length` steps."""
    rnn, x = model("rnn", HIDDEN, torch.float32), sequence(1, length, torch.float32)

    def work() -> None:
        analysis = Analysis((Run(rnn, x, final_loss),), RunSpec(length=length, batch=1, dtype="float32"))
        for adjoint in analysis.adjoints:
            _ = adjoint.state, adjoint.input, adjoint.weight
        influence.reach(analysis)
        lyapunov(analysis.trace.trajectory, EXPONENTS)

    return work


def both(first: Job, second: Job) -> Job:
    """One after the other."""

    def work() -> None:
        first()
        second()

    return work


def _memory(work: Work, effort: Effort) -> Figure:
    """Peak memory of a process that does the work alone.

    Always at the length of the goal: extrapolating from shorter ones was seen to be wrong by a sixth, since buffers of
    fixed size fill up on the way.
    """
    length = effort.pick(GOAL_STEPS, 1000)
    found = in_new_process("benchmarks.million", str(length))
    against, goal = f"peak memory at T={length:,}", effort.pick(2.0, None)
    notes = (f"memory is that of a process of its own, which took {found['seconds']:.3g} s",)
    return Figure(work.name, work.size, against, found["peak_bytes"] / GIB, goal, "at most", "GiB", notes=notes)


def peak_bytes() -> int:
    """The most memory this process has held."""
    status = Path("/proc/self/status")
    if status.is_file():
        # ru_maxrss of a process on Linux starts from what its parent held; VmHWM is its own.
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        if "VmHWM" in lines:
            return int(lines["VmHWM"].split()[0]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _alone(length: int) -> None:
    with threads_for(HIDDEN):
        begun = time.perf_counter()
        measured(length)()
        seconds = time.perf_counter() - begun
    sys.stdout.write(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes()}) + "\n")


if __name__ == "__main__":
    _alone(int(sys.argv[1]))
