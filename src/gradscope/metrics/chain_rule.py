"""The chain rule held against torch: dL/ds_0 by autograd through the model, and P_0^T dL/ds_T from dense Jacobians."""

from __future__ import annotations

import torch
from torch import Tensor

from gradscope.chain import JacobianChain
from gradscope.models.recurrent import Recurrent
from gradscope.numerics.analysis import Analysis, Unavailable
from gradscope.numerics.scale import LOG10_2, normalise

LONGEST = 1000
LARGEST = 512


def measure(analysis: Analysis) -> float:
    """||dL/ds_0 - P_0^T dL/ds_T|| / ||dL/ds_0|| for L = <v, y_T>, v a seeded unit vector."""
    chain, (model, x) = analysis.chain, analysis.trace.recurrence(analysis.spec.item)
    if analysis.length > LONGEST or chain.size > LARGEST:
        raise Unavailable(f"checked up to {LONGEST} steps and {LARGEST} numbers of state")
    if model.cuts:
        raise Unavailable("dL/ds_0 is exactly zero: the gradient is cut on the way")
    first, last = autograd_ends(model, x)
    scale = first.double().norm()
    if not bool(scale > 0):
        raise Unavailable("dL/ds_0 is exactly zero")
    tiny = torch.finfo(first.dtype).tiny / torch.finfo(first.dtype).eps
    if not tiny < float(scale) < torch.finfo(first.dtype).max:
        raise Unavailable(f"dL/ds_0 is outside the range of {str(first.dtype)[6:]}, in which autograd works")
    return float((first.double() - through_product(chain, last.double())).norm() / scale)


def autograd_ends(model: Recurrent, x: Tensor) -> tuple[Tensor, Tensor]:
    """dL/ds_0 and dL/ds_T, each (size,), by torch.autograd through the unrolled model for x (1, T, features)."""
    v = torch.randn(model.output_size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    v = (v / v.norm()).to(x)
    with torch.enable_grad():
        first = [state.requires_grad_() for state in model.initial_states(1)]
        current = list(first)
        for step in x.unbind(1):
            flow = step
            for index, cell in enumerate(model.cells):
                current[index] = cell.step(flow, current[index])
                flow = cell.output(flow, current[index])
        # The layers' last states are coordinates of one state: the loss is read off them as they stand.
        last, top = [state.detach().requires_grad_() for state in current], x[:, -1]
        for cell, state in zip(model.cells, last, strict=True):
            top = cell.output(top, state)
        return _joint_gradient((flow[0] * v).sum(), first), _joint_gradient((top[0] * v).sum(), last)


def _joint_gradient(loss: Tensor, states: list[Tensor]) -> Tensor:
    found = torch.autograd.grad(loss, states, allow_unused=True) if loss.requires_grad else [None] * len(states)
    filled = [torch.zeros_like(s) if g is None else g for g, s in zip(found, states, strict=True)]
    return torch.cat(filled, -1)[0]


def through_product(chain: JacobianChain, adjoint: Tensor) -> Tensor:
    """P_0^T a, with P_0 = J_T ... J_1 multiplied out from the dense Jacobians of sequence 0."""
    jacobians = chain.dense(0, chain.length)[0].double()
    p, e = normalise(jacobians[0], dims=2)
    for jacobian in jacobians[1:]:
        p, e = normalise(jacobian @ p, e, dims=2)
    found: Tensor = (p.mT @ adjoint) * 10.0 ** (float(e) * LOG10_2)
    return found
