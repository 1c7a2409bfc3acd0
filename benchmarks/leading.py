"""The leading singular values of products of Jacobians too large to keep."""

from __future__ import annotations

import torch

from benchmarks.counting import CountingChain
from benchmarks.figure import Figure, Work
from benchmarks.measure import Effort, Job, fitting_length, interleaved
from benchmarks.models import model, module_of, sequence, threads
from benchmarks.peers import fused_step
from gradscope.numerics.costs import threads_for
from gradscope.numerics.spectra import leading_spectra, log_lags

COUNT = 16
BATCH = 8
SETTLED = 1e-3
"""How far, in ln, the last pass may have moved a value."""


def leading(effort: Effort) -> list[Figure]:
    """A GRU at log-spaced lags, against one training step on the same sequence, and on a batch of eight."""
    hidden, lengths = effort.pick((1024, (1000, 500, 200)), (64, (50,)))
    gru = model("gru", hidden, torch.float32)
    module = module_of(gru)
    residual: list[float] = []
    formed: list[int] = []

    def job_of(length: int) -> Job:
        x = sequence(BATCH, length, torch.float32)

        def work() -> None:
            chain = CountingChain(gru.run(x[:1]))
            residual.append(float(leading_spectra(chain, log_lags(length), COUNT).residual.max()))
            formed.append(chain.most_formed)

        return work

    with threads_for(hidden):
        length, notes = fitting_length(lengths, job_of, effort)
        x = sequence(BATCH, length, torch.float32)
        jobs: dict[str, Job] = {
            "gradscope": job_of(length),
            "one": lambda: fused_step(module, x[:1]),
            "batch": lambda: fused_step(module, x),
        }
        found = interleaved(jobs, effort)
        size = f"GRU H={hidden} T={length} float32, {threads()}"
    lags = ", ".join(map(str, log_lags(length)))
    kept = f"lags {lags}; at most {formed[-1]} Jacobians formed at once"
    work = Work(f"leading {COUNT} singular values", size, found["gradscope"], (found.said, *notes))
    return [
        work.price("fused forward + backward of nn.GRU, the same sequence", found["one"], 10.0, kept),
        work.price(f"fused forward + backward of nn.GRU, B={BATCH}", found["batch"], None),
        Figure(work.name, size, "largest residual over all lags", residual[-1], SETTLED, "at most", "in ln"),
    ]
