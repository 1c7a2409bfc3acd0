"""Exponents, and the largest singular value of the product at every lag: sweeps over the whole chain."""

from __future__ import annotations

import torch

from benchmarks import floor, jax_peer
from benchmarks.counting import CountingChain
from benchmarks.figure import Figure, Work
from benchmarks.floor import Floor
from benchmarks.measure import Effort, Job, fitting_length, interleaved
from benchmarks.models import model, module_of, sequence, threads
from benchmarks.peers import exponents_and_norms, jacrev_vmap, tanh_step
from gradscope.chain import JacobianChain
from gradscope.numerics.costs import threads_for
from gradscope.numerics.lyapunov import lyapunov
from gradscope.numerics.products import sweep_products

WORK = "exponents and sigma_max at every lag"


def rnn(effort: Effort) -> list[Figure]:
    """A tanh RNN, against the floor and against torch.func and JAX doing the same."""
    hidden, length, peer_steps = effort.pick((500, 100, 20), (40, 20, 20))
    if effort.whole:
        peer_steps = length
    made, x = model("rnn", hidden, torch.float64), sequence(1, length, torch.float64)
    module, step, limit = module_of(made), tanh_step(made), floor.dense(hidden, torch.float64)
    swept: list[int] = []
    jobs: dict[str, Job] = {
        "gradscope": lambda: swept.append(_sweep(made.run(x))),
        "floor": limit.job(),
        "jacrev": lambda: exponents_and_norms(jacrev_vmap(step, module, x[:, :peer_steps])),
    }
    if jax_peer.version():
        jobs["jax"] = jax_peer.exponents_and_norms(made, x)
    with threads_for(hidden):
        found = interleaved(jobs, effort)
        size = f"tanh RNN N={hidden} T={length} B=1 float64, {threads()}"
    work = Work(WORK, size, found["gradscope"], (found.said,))
    scaled = () if peer_steps == length else (f"jacrev ran over {peer_steps} steps and its time is scaled to {length}",)
    compared = [
        _beside_floor(work, limit, found["floor"], length, swept[-1]),
        work.faster_than(
            "torch.func jacrev + vmap, then the same", found["jacrev"] * length / peer_steps, 2.0, *scaled
        ),
    ]
    name = "JAX jacfwd + scan QR, compiled"
    if "jax" in jobs:
        return [*compared, work.faster_than(name, found["jax"], 2.0, "compilation is not counted")]
    return [*compared, work.missing(name, 2.0, "at least", "JAX not installed")]


def lstm(effort: Effort) -> list[Figure]:
    """An LSTM whose Jacobians are applied through W_hh and the gates, against the floor of those products."""
    hidden, lengths = effort.pick((256, (1000, 500, 200, 100)), (16, (20,)))
    made, limit = model("lstm", hidden, torch.float64), floor.lstm(hidden, torch.float64)
    swept: list[int] = []

    def job_of(length: int) -> Job:
        x = sequence(1, length, torch.float64)
        return lambda: swept.append(_sweep(made.run(x)))

    with threads_for(2 * hidden):
        length, notes = fitting_length(lengths, job_of, effort)
        found = interleaved({"gradscope": job_of(length), "floor": limit.job()}, effort)
        size = f"LSTM H={hidden} (state {2 * hidden}) T={length} B=1 float64, {threads()}"
    work = Work(WORK, size, found["gradscope"], (found.said, *notes))
    return [_beside_floor(work, limit, found["floor"], length, swept[-1])]


def _sweep(chain: JacobianChain) -> int:
    """Do the work; returns how many sweeps it took."""
    counted = CountingChain(chain)
    lyapunov(counted)
    sweep_products(counted)
    return counted.sweeps


def _beside_floor(work: Work, limit: Floor, job_seconds: float, length: int, sweeps: int) -> Figure:
    each = limit.sweep_seconds(job_seconds, length)
    rate = limit.rate(job_seconds) / 1e9
    notes = (f"{sweeps} sweeps counted", f"floor {each:.3g} s a sweep at {rate:.3g} GFLOP/s, measured in the same run")
    return work.price(f"floor of {sweeps} sweeps", sweeps * each, 2.0, *notes)
