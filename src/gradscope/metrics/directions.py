"""Directions: singular values of the product over the needed lag that are at least 1 % of the largest."""

from __future__ import annotations

import math

from gradscope.numerics.analysis import Analysis, Unavailable


def measure(analysis: Analysis) -> int:
    """How many directions of the state survive the needed lag; 0 where the product is exactly zero."""
    if analysis.needed_lag > analysis.past.length:
        analysis.require_lag()
    if analysis.full:
        found = analysis.products.directions
        assert found is not None
        return found
    leading = analysis.leading
    ln = leading.ln_sigma[leading.lag.index(min(analysis.needed_lag, analysis.past.length))]
    if float(ln[0]) == -math.inf:
        return 0
    kept = int((ln >= ln[0] + math.log(0.01)).sum())
    if kept == len(ln) < analysis.chain.size:
        raise Unavailable(f"at least {kept} directions survive, and only the leading {kept} are measured")
    return kept
