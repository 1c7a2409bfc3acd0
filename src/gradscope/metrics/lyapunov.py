"""Lyapunov exponents of the trajectory, nats per step, by QR (Benettin et al. 1980)."""

from __future__ import annotations

import math

import torch

from gradscope.metrics.interval import mean_interval
from gradscope.numerics.analysis import Analysis, Unavailable
from gradscope.records import Values

BLOCKS = 10
ROUNDING = 1e-14
"""Growth of a direction beside that of the fastest one at the same step, below which it is nothing but rounding."""


def measure(analysis: Analysis) -> Values:
    """Exponents, largest first; all of them, or the leading ones of a large state. None where rounding decides."""
    growth = analysis.exponents.log_growth
    order = growth.mean(0).argsort(descending=True, stable=True)
    # A direction that a Jacobian kills comes out of the factorisation as rounding of the others, or as exactly zero.
    lost = ((growth - growth.amax(1, keepdim=True)) < math.log(ROUNDING)) & (growth > -math.inf)
    pairs = zip(growth.mean(0)[order].tolist(), lost.any(0)[order].tolist(), strict=True)
    return tuple(None if unresolved and value > -math.inf else float(value) for value, unresolved in pairs)


def interval(analysis: Analysis) -> tuple[float, float]:
    """95 % t-interval of the leading exponent from the means of ten successive stretches of the trajectory."""
    growth = analysis.exponents.log_growth
    leading = growth[:, int(growth.mean(0).argmax())]
    if len(leading) < 2 * BLOCKS:
        raise Unavailable(f"{len(leading)} steps are too few for an interval; it takes {2 * BLOCKS}")
    if not bool(leading.isfinite().all()):
        raise Unavailable("the leading direction is lost on the way, so there is no interval")
    found = mean_interval([float(block.mean()) for block in torch.tensor_split(leading, BLOCKS)])
    assert found is not None
    return found
