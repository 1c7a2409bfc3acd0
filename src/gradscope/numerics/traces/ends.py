"""What autograd says of a recurrence of gradscope's own cells, to hold its chain of Jacobians against."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradscope.models.recurrent import Recurrent, Trajectory
from gradscope.numerics.spectra.products import chunks


def autograd_ends(model: Recurrent, x: Tensor) -> tuple[Tensor, Tensor]:
    """dL/ds_0 and dL/ds_T, each (size,), by torch.autograd through the unrolled model for x (1, T, features)."""
    v = torch.randn(model.output_size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    v = (v / v.norm()).to(x)
    with torch.enable_grad():
        first = [state.requires_grad_() for state in model.initial_states(1)]
        outputs, states = model.unrolled(x.unbind(1), first)
        # The layers' last states are coordinates of one state: the loss is read off them as they stand.
        last, top = [state.detach().requires_grad_() for state in states], x[:, -1]
        for cell, state in zip(model.cells, last, strict=True):
            top = cell.output(top, state)
        return _joint_gradient((outputs[-1][0] * v).sum(), first), _joint_gradient((top[0] * v).sum(), last)


def _joint_gradient(loss: Tensor, states: list[Tensor]) -> Tensor:
    found = torch.autograd.grad(loss, states, allow_unused=True) if loss.requires_grad else [None] * len(states)
    filled = [torch.zeros_like(s) if g is None else g for g, s in zip(found, states, strict=True)]
    return torch.cat(filled, -1)[0]


def moved_without_gradient(model: Recurrent, x: Tensor) -> tuple[int, ...]:
    """Steps t at which autograd says ds_t/ds_{t-1} = 0 but a small change of s_{t-1} moves s_t, x (1, T, features)."""
    trajectory = model.run(x)
    found = []
    for start, stop in chunks(trajectory.length, trajectory.size):
        zero = (trajectory.dense(start, stop)[0] == 0).flatten(1).all(1).nonzero().flatten()
        found += [start + int(index) + 1 for index in zero if _moves(trajectory, x, start + int(index) + 1)]
    return tuple(found)


def _moves(trajectory: Trajectory, x: Tensor, t: int) -> bool:
    """Whether s_t changes when s_{t-1} is nudged at random.

    The nudge is the square root of the rounding error, beside the largest state of the trajectory: a larger one would
    wake units that are dead at s_{t-1}, whose Jacobian is rightly zero.
    """
    flow = x[:, t - 1]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in trajectory.layers:
            cell, before = layer.cell, layer.states[t - 1]
            nudge = math.sqrt(torch.finfo(before.dtype).eps) * (float(layer.states.abs().max()) or 1.0)
            noise = torch.randn(before.shape, dtype=torch.float64, generator=generator).to(before)
            moved = cell.step(flow, before + nudge * noise)
            if not torch.equal(moved, cell.step(flow, before)):
                return True
            flow = layer.outputs[t - 1]
    return False
