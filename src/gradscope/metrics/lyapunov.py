"""Lyapunov exponents of the trajectory, nats per step, by QR (Benettin et al. 1980)."""

from __future__ import annotations

import torch

from gradscope.metrics.interval import mean_interval
from gradscope.metrics.track import numbers
from gradscope.numerics.analysis import Analysis, Unavailable
from gradscope.records import Values

BLOCKS = 10


def measure(analysis: Analysis) -> Values:
    """Exponents, largest first; all of them, or the leading ones of a large state."""
    return numbers(analysis.exponents.mean)


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
