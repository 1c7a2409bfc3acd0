"""Finite-time exponents ln sigma_i(P_0) / T: the growth that this stretch of trajectory really had."""

from __future__ import annotations

from gradscope.metrics.track import numbers
from gradscope.numerics.analysis import Analysis
from gradscope.records import Values


def measure(analysis: Analysis) -> Values:
    """In nats per step, largest first; all of them, or the leading ones of a large state."""
    if analysis.full:
        return numbers(analysis.spectra[1][-1].ln_sigma / analysis.length)
    return numbers(analysis.leading.ln_sigma[-1] / analysis.length)
