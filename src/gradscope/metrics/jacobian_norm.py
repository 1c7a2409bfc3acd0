"""Norms of the single Jacobians."""

from __future__ import annotations

import math

from gradscope.metrics.track import Track, Tracks, numbers
from gradscope.numerics.analysis import Analysis


def measure(analysis: Analysis) -> Tracks:
    """log10 ||J_t||, t = 1 .. T; None up to the first full state."""
    norms = numbers(analysis.jacobian_sigma[:, 0] / math.log(10))
    return {"log10_jacobian_norm": Track((*[None] * analysis.chain.begins, *norms))}
