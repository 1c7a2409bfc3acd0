"""Condition: log10 sigma_1 / sigma_n of the product up to the anchor; never judged: healthy LSTMs have 10^200."""

from __future__ import annotations

import math

from gradscope.numerics.analysis import Analysis, Unavailable


def measure(analysis: Analysis) -> float:
    """log10 of the condition number; inf for a singular product."""
    spectrum = analysis.spectra[1][-1]
    if float(spectrum.ln_sigma[0]) == -math.inf:
        raise Unavailable("the product of the Jacobians is exactly zero")
    if not bool(spectrum.resolved[-1]) and float(spectrum.ln_sigma[-1]) > -math.inf:
        raise Unavailable("the smallest singular value is below what double precision determines")
    return float(spectrum.ln_sigma[0] - spectrum.ln_sigma[-1]) / math.log(10)
