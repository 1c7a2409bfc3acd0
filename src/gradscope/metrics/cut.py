"""A cut gradient: a step whose Jacobian is exactly zero although the new state does depend on the old one."""

from __future__ import annotations

import torch
from torch import Tensor

from gradscope.models.recurrent import Trajectory
from gradscope.numerics.analysis import Analysis
from gradscope.numerics.products import chunks

NUDGE = 1e-3


def measure(analysis: Analysis) -> int | None:
    """The newest step t at which autograd says ds_t/ds_{t-1} = 0 but a small change of s_{t-1} moves s_t."""
    analysis.require_full()
    chain, (model, x) = analysis.chain, analysis.trace.recurrence(analysis.spec.item)
    trajectory = model.run(x)
    for start, stop in reversed(list(chunks(chain.length, chain.size))):
        zero = (chain.dense(start, stop)[0] == 0).flatten(1).all(1).nonzero().flatten()
        for index in reversed(zero.tolist()):
            if _moves(trajectory, x, start + int(index) + 1):
                return start + int(index) + 1
    return None


def _moves(trajectory: Trajectory, x: Tensor, t: int) -> bool:
    """Whether s_t changes when s_{t-1} is nudged at random."""
    flow = x[:, t - 1]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in trajectory.layers:
            cell, before = layer.cell, layer.states[t - 1]
            noise = torch.randn(before.shape, dtype=torch.float64, generator=generator).to(before)
            moved = cell.step(flow, before + NUDGE * (1 + before.abs()) * noise)
            if not torch.equal(moved, cell.step(flow, before)):
                return True
            flow = layer.outputs[t - 1]
    return False
