"""Finite-time exponents ln sigma_i(P_0) / a, a the anchor: the growth that the steps up to it really had."""

from __future__ import annotations

import math

from gradscope.metrics.track import numbers
from gradscope.numerics.analysis import Analysis
from gradscope.records import Values


def measure(analysis: Analysis) -> Values:
    """In nats per step, largest first; all of them, or the leading ones of a large state. None where unresolved."""
    if analysis.full:
        spectrum = analysis.spectra[1][-1]
        pairs = zip(numbers(spectrum.ln_sigma / analysis.past.length), spectrum.resolved.tolist(), strict=True)
        return tuple(value if resolved or value == -math.inf else None for value, resolved in pairs)
    return numbers(analysis.leading.ln_sigma[-1] / analysis.past.length)
