"""What a backward pass in log scale costs beside the one that training makes anyway."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.figure import Figure, Work
from benchmarks.measure import Effort, Job, interleaved
from benchmarks.models import final_cotangent, model, module_of, sequence, threads
from benchmarks.peers import cell_of, fused_step, retain_grad_loop
from gradscope.metrics.gradients import shares
from gradscope.models.stack import Recurrent
from gradscope.numerics.adjoint import backpropagate
from gradscope.numerics.costs import threads_for


def gradients(effort: Effort) -> list[Figure]:
    """Norms of dL/ds_t and dL/dx_t and the weight shares of an LSTM, against one training step."""
    hidden, length, batch = effort.pick((256, 1000, 8), (16, 50, 2))
    lstm, x = model("lstm", hidden, torch.float32), sequence(batch, length, torch.float32)
    module = module_of(lstm)
    cell = cell_of(module)
    jobs: dict[str, Job] = {
        "gradscope": lambda: gradient_norms(lstm, x),
        "fused": lambda: fused_step(module, x),
        "loop": lambda: retain_grad_loop(cell, x),
    }
    with threads_for(2 * hidden):
        found = interleaved(jobs, effort)
        size = f"LSTM H={hidden} T={length} B={batch} float32, {threads()}"
    work = Work("per-step gradient norms and weight shares", size, found["gradscope"], (found.said,))
    loop = found["loop"] / found["fused"]
    return [
        work.price("fused forward + backward of nn.LSTM", found["fused"], 2.0),
        work.faster_than(
            "unrolled nn.LSTMCell with retain_grad",
            found["loop"],
            None,
            "the loop finds no weight shares",
            f"the loop itself costs {loop:.3g} fused passes",
        ),
    ]


def gradient_norms(model: Recurrent, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """log10 of the norms of dL/ds_t and dL/dx_t and of the weight shares, each (steps, batch)."""
    trajectory = model.run(x)
    adjoint = backpropagate(trajectory, final_cotangent(trajectory.output), totals=False)
    weight = adjoint.weight
    return adjoint.state, adjoint.input, None if weight is None else shares(weight)
