"""A cut gradient: a step whose Jacobian is exactly zero although the new state does depend on the old one."""

from __future__ import annotations

import torch

from gradscope.models.recurrent import Recurrent
from gradscope.numerics.analysis import Analysis, Unavailable
from gradscope.numerics.products import chunks

NUDGE = 1e-3


def measure(analysis: Analysis) -> int | None:
    """The newest step t at which autograd says ds_t/ds_{t-1} = 0 but a small change of s_{t-1} moves s_t."""
    analysis.require_full()
    chain, model = analysis.chain, analysis.model
    if not isinstance(model, Recurrent):
        raise Unavailable("a file of Jacobians has no model to test")
    for start, stop in reversed(list(chunks(chain.length, chain.size))):
        zero = (chain.dense(start, stop)[0] == 0).flatten(1).all(1).nonzero().flatten()
        for index in reversed(zero.tolist()):
            if _moves(analysis, model, start + int(index) + 1):
                return start + int(index) + 1
    return None


def _moves(analysis: Analysis, model: Recurrent, t: int) -> bool:
    """Whether s_t changes when s_{t-1} is nudged at random."""
    layers = analysis.item_trajectory.layers
    flow = analysis.runs[0].x[analysis.spec.item : analysis.spec.item + 1, t - 1]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for cell, layer in zip(model.cells, layers, strict=True):
            before = layer.states[t - 1]
            noise = torch.randn(before.shape, dtype=torch.float64, generator=generator).to(before)
            moved = cell.step(flow, before + NUDGE * (1 + before.abs()) * noise)
            if not torch.equal(moved, cell.step(flow, before)):
                return True
            flow = layer.outputs[t - 1]
    return False
