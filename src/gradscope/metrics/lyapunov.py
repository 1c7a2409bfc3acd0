"""Lyapunov exponents of the trajectory, nats per step, by QR (Benettin et al. 1980)."""

from __future__ import annotations

import math

import torch

from gradscope.metrics.interval import mean_interval
from gradscope.numerics.analysis import Analysis, Unavailable
from gradscope.numerics.spectra.exponents import STRETCHES
from gradscope.records import Values


def measure(analysis: Analysis) -> Values:
    """Exponents, largest first; all of them, or the leading ones of a large state. None where rounding decides."""
    found = analysis.exponents
    pairs = zip(found.mean.tolist(), found.resolved[found.order].tolist(), strict=True)
    return tuple(float(value) if resolved or value == -math.inf else None for value, resolved in pairs)


def interval(analysis: Analysis) -> tuple[float, float]:
    """95 % t-interval of the leading exponent from the means of ten successive stretches of the trajectory."""
    exponents = analysis.exponents
    leading = exponents.log_growth[:, int(exponents.order[0])]
    if len(leading) < 2 * STRETCHES:
        raise Unavailable(f"{len(leading)} steps are too few for an interval; it takes {2 * STRETCHES}")
    if not bool(leading.isfinite().all()):
        raise Unavailable("the leading direction is lost on the way, so there is no interval")
    found = mean_interval([float(block.mean()) for block in torch.tensor_split(leading, STRETCHES)])
    assert found is not None
    return found
