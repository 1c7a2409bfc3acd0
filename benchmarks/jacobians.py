"""All J_t alone, as matrices."""

from __future__ import annotations

import torch

from benchmarks.figure import Figure, Work
from benchmarks.measure import Effort, Job, interleaved
from benchmarks.models import model, module_of, sequence, threads
from benchmarks.peers import autograd_loop, jacrev_vmap, tanh_step
from gradscope.numerics.costs import threads_for


def jacobians(effort: Effort) -> list[Figure]:
    """Forward pass and every J_t of a tanh RNN, against torch.func and against a loop of autograd Jacobians."""
    hidden, length, looped = effort.pick((500, 100, 5), (40, 20, 5))
    rnn, x = model("rnn", hidden, torch.float64), sequence(1, length, torch.float64)
    module, step = module_of(rnn), tanh_step(rnn)
    jobs: dict[str, Job] = {
        "gradscope": lambda: rnn.run(x).dense(0, length),
        "jacrev": lambda: jacrev_vmap(step, module, x),
        "loop": lambda: autograd_loop(step, module, x, looped),
    }
    with threads_for(hidden):
        found = interleaved(jobs, effort)
        size = f"tanh RNN N={hidden} T={length} B=1 float64, {threads()}"
    work = Work("all J_t alone", size, found["gradscope"], (found.said,))
    scaled = f"the loop ran over {looped} steps and its time is scaled to {length}"
    return [
        work.faster_than("torch.func jacrev + vmap", found["jacrev"], 8.0),
        work.faster_than("torch.autograd.functional.jacobian loop", found["loop"] * length / looped, 40.0, scaled),
    ]
