"""The chain rule held against torch: dL/ds_0 by autograd through the model, and P_0^T dL/ds_T from dense Jacobians."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gradscope.chain import JacobianChain
from gradscope.models.cell import Linearization
from gradscope.models.stack import Recurrent, StackRun
from gradscope.numerics.equality import digits_left, saturated
from gradscope.numerics.logscale import normalise, power_of_two
from gradscope.numerics.products import chunks
from gradscope.numerics.trace import Trace, Unavailable


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


def _moves(trajectory: StackRun, x: Tensor, t: int) -> bool:
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


LONGEST = 1000
LARGEST = 512
LEAST = 1e-4
"""Share of dL/ds_0 that a product of float64 may be off by: above that the Jacobians are not those of the model."""


def residual(chain: JacobianChain, trace: Trace, item: int) -> float:
    """||dL/ds_0 - P_0^T dL/ds_T|| / ||dL/ds_0|| for L = <v, y_T>, v a seeded unit vector; s_0 the first full state.

    Raises:
        Unavailable: there is nothing to hold against each other, with the reason.
    """
    if trace.length > LONGEST or chain.size > LARGEST:
        raise Unavailable(f"checked up to {LONGEST} steps and {LARGEST} numbers of state")
    first, last, steps = trace.ends(item)
    if steps <= chain.begins:
        raise Unavailable("there is a single step")
    if len(first) != len(last):
        raise Unavailable("the first state has other numbers than the last")
    scale = first.double().norm()
    if not bool(scale > 0):
        raise Unavailable("dL/ds_0 is exactly zero")
    tiny = torch.finfo(first.dtype).tiny / torch.finfo(first.dtype).eps
    if not tiny < float(scale) < torch.finfo(first.dtype).max:
        raise Unavailable(f"dL/ds_0 is outside the range of {str(first.dtype)[6:]}, in which autograd works")
    found = float((first.double() - through_product(chain, last.double(), steps - chain.begins)).norm() / scale)
    kinds = (first.dtype, *_types(trace))
    quiet = float(scale) < digits_left(kinds) * float(last.double().norm())
    if not found <= allowed(trace) and quiet and saturated([layer for _, layer in trace.layers], kinds):
        raise Unavailable("units are saturated, so torch's own gradient of the first state is what rounding has left")
    return found


def allowed(trace: Trace) -> float:
    """What the residual of a model may be, by the coarsest number type that took part."""
    return max([LEAST, *(10 * math.sqrt(torch.finfo(dtype).eps) for dtype in _types(trace))])


def _types(trace: Trace) -> list[torch.dtype]:
    """Number types that took part, as far as they are known."""
    given = getattr(trace, "x", None)
    types = [*getattr(trace, "types", ()), *([] if given is None else [given.dtype])]
    return [dtype for dtype in types if dtype.is_floating_point]


def through_product(chain: JacobianChain, adjoint: Tensor, steps: int) -> Tensor:
    """P^T a, with P = J_t ... J_1, t = `steps`, multiplied out from the dense Jacobians of sequence 0."""
    jacobians = chain.dense(0, steps)[0].double()
    p, e = normalise(jacobians[0], dims=2)
    for jacobian in jacobians[1:]:
        p, e = normalise(jacobian @ p, e, dims=2)
    found, e = normalise(p.mT @ adjoint, e)
    # In two parts: the exponent alone may lie beyond the range of numbers whose product with the mantissa does not.
    half = e // 2
    pulled: Tensor = found * power_of_two(half, found.dtype) * power_of_two(e - half, found.dtype)
    return pulled
