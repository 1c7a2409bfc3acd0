"""A recurrence found in a user's loop, beside the same cell as a family: a GRU written inline.

`python -m benchmarks.found STEPS` analyses STEPS of it once and prints seconds and peak memory.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import torch
from torch import Tensor, nn

from benchmarks.figure import Figure, Work
from benchmarks.measure import Effort, in_new_process, interleaved
from benchmarks.models import final_loss, model, sequence, threads
from gradscope.chain import JacobianChain
from gradscope.forward.traced_pass import trace_pass
from gradscope.models.stack import Recurrent
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.analysis import Analysis, Run
from gradscope.numerics.costs import threads_for
from gradscope.numerics.lyapunov import lyapunov
from gradscope.numerics.products import sweep_products
from gradscope.records import RunSpec

GIB = 2**30


class Inline(nn.Module):
    """A GRU as it is written by hand, with the weights of a family's."""

    def __init__(self, made: Recurrent) -> None:
        """Copy the weights of a one-layer GRU."""
        super().__init__()
        weights = {key.removeprefix("l0."): value for key, value in made.parameters().items()}
        self.hidden = made.output_size
        self.ih, self.hh = (nn.Linear(weights[f"weight_{way}"].shape[1], 3 * self.hidden) for way in ("ih", "hh"))
        for part, way in ((self.ih, "ih"), (self.hh, "hh")):
            part.weight = nn.Parameter(weights[f"weight_{way}"])
            part.bias = nn.Parameter(weights[f"bias_{way}"])

    def forward(self, x: Tensor) -> Tensor:
        """(batch, T, hidden)."""
        h, outputs = x.new_zeros(len(x), self.hidden), []
        for t in range(x.shape[1]):
            r, z, n = self.ih(x[:, t]).chunk(3, -1)
            hr, hz, hn = self.hh(h).chunk(3, -1)
            r, z = torch.sigmoid(r + hr), torch.sigmoid(z + hz)
            h = (1 - z) * torch.tanh(n + r * hn) + z * h
            outputs.append(h)
        return torch.stack(outputs, 1)


def found(effort: Effort) -> list[Figure]:
    """Products and exponents beside the family's, and finding the steps beside forward passes."""
    hidden, length = effort.pick((128, 1000), (16, 40))
    family, x = model("gru", hidden, torch.float64), sequence(8, length, torch.float64)
    module = Inline(family).double().eval()
    direct = WholeModule("inline", module, x.shape[-1], kind="module", time_first=False)
    chain = trace_pass(direct, x[:1])

    def fresh() -> JacobianChain:
        found = chain.chains[0]
        found.forget()
        return found

    def forward() -> object:
        with torch.enable_grad():
            return module(x.clone().requires_grad_())

    with threads_for(hidden):
        times = interleaved(
            {
                "found": lambda: _measured(fresh()),
                "family": lambda: _measured(family.run(x[:1])),
                "trace": lambda: trace_pass(direct, x[:1]),
                "forward": forward,
            },
            effort,
        )
        size = f"GRU H={hidden} T={length} written inline, float64, {threads()}"
    work = Work("products and exponents of a step found in a loop", size, times["found"], (times.said,))
    tracing = Work("finding the steps", size, times["trace"], (times.said,))
    return [
        work.price("the same as the family gru", times["family"], 3.0),
        tracing.price("one forward pass with its graph, B=8", times["forward"], 5.0),
        _memory(effort),
    ]


def _measured(chain: JacobianChain) -> None:
    lyapunov(chain)
    sweep_products(chain)


def _memory(effort: Effort) -> Figure:
    length = effort.pick(10_000, 100)
    work = "gradients, weights and profile of a loop found in a module"
    told = in_new_process("benchmarks.found", str(length))
    size = f"GRU H=128 T={length:,} B=8 written inline, float64"
    note = f"a process of its own, which took {told['seconds']:.3g} s"
    return Figure(work, size, f"peak memory at T={length:,}", told["gib"], 2.0, "at most", "GiB", notes=(note,))


def _once(length: int) -> None:
    family, x = model("gru", 128, torch.float64), sequence(8, length, torch.float64)
    module = Inline(family).double().eval()
    direct = WholeModule("inline", module, x.shape[-1], kind="module", time_first=False)
    begun = time.perf_counter()
    analysis = Analysis((Run(direct, x, final_loss),), RunSpec(length=length, batch=8))
    for adjoint in analysis.adjoints:
        _ = adjoint.state, adjoint.input, adjoint.weight
    _ = analysis.profile
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    sys.stdout.write(json.dumps({"seconds": time.perf_counter() - begun, "gib": peak}))


if __name__ == "__main__":
    _once(int(sys.argv[1]))
