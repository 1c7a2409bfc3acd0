"""Lags within the needed lag whose influence is exactly zero in every sequence."""

from __future__ import annotations

import math

from gradscope.numerics.analysis import Analysis, Unavailable


def measure(analysis: Analysis) -> tuple[int, ...]:
    """(first such lag, how many), or () when there is none."""
    analysis.require_finite()
    lagged = analysis.influence[:, 1 : analysis.needed_lag + 1]
    if not lagged.shape[1]:
        raise Unavailable("no step lies before the one that the loss reads")
    zero = (lagged == -math.inf).all(0).nonzero().flatten()
    return (int(zero[0]) + 1, len(zero)) if len(zero) else ()
