"""Directions: singular values of the product over the needed lag that are at least 1 % of the largest."""

from __future__ import annotations

import math

from gradscope.numerics.analysis import Analysis


def measure(analysis: Analysis) -> int:
    """How many directions of the state survive the needed lag; 0 where the product is exactly zero."""
    if analysis.full:
        return analysis.products.directions
    leading = analysis.leading
    ln = leading.ln_sigma[leading.lag.index(analysis.needed_lag)]
    return int((ln >= ln[0] + math.log(0.01)).sum()) if float(ln[0]) > -math.inf else 0
