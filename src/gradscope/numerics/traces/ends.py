"""What autograd says of a recurrence of gradscope's own cells, to hold its chain of Jacobians against."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gradscope.models.cell import Linearization
from gradscope.models.recurrent import Recurrent, Trajectory
from gradscope.numerics.spectra.products import chunks


def autograd_ends(model: Recurrent, x: Tensor) -> tuple[Tensor, Tensor]:
    """dL/ds_0 and dL/ds_T, each (size,), by torch.autograd through every step of the model for x (1, T, features).

    Each step starts from the state that the chain has there: another run of a chaotic recurrence would soon be at other
    states, by rounding alone.
    """
    v = torch.randn(model.output_size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    v = (v / v.norm()).to(x)
    layers = model.run(x).layers
    with torch.enable_grad():
        # The layers' last states are coordinates of one state: the loss is read off them as they stand.
        last, top = _leaves(layers, -1), x[:, -1]
        for cell, state in zip(model.cells, last, strict=True):
            top = cell.output(top, state)
        at_last = adjoint = _pulled([top], last, [v[None]])
        for t in range(x.shape[1], 0, -1):
            before, flow, after = _leaves(layers, t - 1), x[:, t - 1], list[Tensor]()
            for cell, state in zip(model.cells, before, strict=True):
                after.append(cell.step(flow, state.detach() if t in model.cuts else state))
                flow = cell.output(flow, after[-1])
            adjoint = _pulled(after, before, adjoint)
    return torch.cat(adjoint, -1)[0], torch.cat(at_last, -1)[0]


def _leaves(layers: Sequence[Linearization], at: int) -> list[Tensor]:
    return [layer.states[at].detach().clone().requires_grad_() for layer in layers]


def _pulled(values: Sequence[Tensor], states: Sequence[Tensor], adjoint: Sequence[Tensor]) -> list[Tensor]:
    """The adjoint of values brought back to states, zeros where nothing comes."""
    joined = [(value, g) for value, g in zip(values, adjoint, strict=True) if value.requires_grad]
    if not joined:
        return [torch.zeros_like(state) for state in states]
    found = torch.autograd.grad([value for value, _ in joined], states, [g for _, g in joined], allow_unused=True)
    return [torch.zeros_like(s) if g is None else g for g, s in zip(found, states, strict=True)]


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

    The nudge is the square root of the rounding error, beside s_{t-1} itself: a larger one, such as beside the largest
    state of a trajectory that explodes, would wake units that are dead at s_{t-1}, whose Jacobian is rightly zero.
    """
    flow = x[:, t - 1]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in trajectory.layers:
            cell, before = layer.cell, layer.states[t - 1]
            size = float(before.abs().max()) or min(float(layer.states.abs().max()), 1.0) or 1.0
            nudge = math.sqrt(torch.finfo(before.dtype).eps) * size
            noise = torch.randn(before.shape, dtype=torch.float64, generator=generator).to(before)
            moved = cell.step(flow, before + nudge * noise)
            if not torch.equal(moved, cell.step(flow, before)):
                return True
            flow = layer.outputs[t - 1]
    return False
