"""Norms of the single Jacobians."""

from __future__ import annotations

from gradscope.metrics.track import Track, Tracks, numbers
from gradscope.numerics.analysis import Analysis
from gradscope.numerics.products import jacobian_norms


def measure(analysis: Analysis) -> Tracks:
    """log10 ||J_t||, t = 1 .. T."""
    analysis.require_full()
    return {"log10_jacobian_norm": Track(numbers(jacobian_norms(analysis.chain)))}
