"""Derivatives against each other: the chain rule, and finite differences."""

from __future__ import annotations

from functools import partial

import torch

from gradscope.metrics import chain_rule
from gradscope.selftest.case import Case, Measurement, compared
from gradscope.selftest.equality import difference
from gradscope.selftest.influence import analysis
from gradscope.selftest.models import FEATURES, RECURRENT, joint_states, joint_step, noise, stacked

STRIDE = 1e-5


def residual(name: str) -> Measurement:
    """dL/ds_0 by torch.autograd through two layers, and P_0^T dL/ds_T from the closed-form Jacobians."""
    found = chain_rule.measure(analysis(stacked(name), 40))
    return compared(found, 0.0, 1e-10, "dL/ds_0 by torch.autograd")


def finite_differences(name: str) -> Measurement:
    """Closed-form Jacobians of two layers, and central differences of their steps."""
    model, x = stacked(name), noise(1, 10, FEATURES)
    moves = STRIDE * torch.eye(model.state_size, dtype=torch.float64)
    wanted = []
    for s, x_t in zip(joint_states(model, x), x.unbind(1), strict=True):
        inputs = x_t.expand(len(moves), -1)
        ahead, behind = joint_step(model, inputs, s + moves), joint_step(model, inputs, s - moves)
        wanted.append((ahead - behind).T / (2 * STRIDE))
    found = model.run(x).dense(0, 10)[0]
    return compared(difference(found, torch.stack(wanted)), 0.0, 1e-7, "central differences of the step")


CASES = (
    *(Case(f"chain rule, {name}", partial(residual, name)) for name in RECURRENT),
    *(Case(f"finite differences, {name}", partial(finite_differences, name)) for name in RECURRENT),
)
