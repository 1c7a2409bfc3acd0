"""The chain rule held against torch: dL/ds_0 by autograd through the model, and P_0^T dL/ds_T from dense Jacobians."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradscope.chain import JacobianChain
from gradscope.numerics.checks.equality import digits_left, saturated
from gradscope.numerics.scale import normalise, power_of_two
from gradscope.numerics.traces.trace import Trace, Unavailable

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
