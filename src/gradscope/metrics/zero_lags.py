"""Lags that hold no number: an influence of exactly zero, and one that overflows."""

from __future__ import annotations

import math

from gradscope.numerics.analysis import Analysis, Unavailable


def measure(analysis: Analysis) -> tuple[int, ...]:
    """(first lag within the needed lag that is exactly zero in every sequence, how many), or () for none.

    Raises:
        Unavailable: there is no lag; or nothing lagged is heard next to the anchor and the model reads the future: it
            runs against time there, and no gradient was lost on the way.
    """
    analysis.require_gradient()
    lagged = analysis.influence[:, 1 : analysis.needed_lag + 1]
    if not lagged.shape[1]:
        raise Unavailable("no step lies before the one that the loss reads")
    zero = (lagged == -math.inf).all(0).nonzero().flatten()
    if len(zero) and not int(zero[0]):
        analysis.require_causal()
    return (int(zero[0]) + 1, len(zero)) if len(zero) else ()


def overflow(analysis: Analysis) -> tuple[int, ...]:
    """(first lag at which the gradient of any sequence overflows its type, how many), or () for none."""
    analysis.require_gradient()
    over = (analysis.influence == math.inf).any(0).nonzero().flatten()
    return (int(over[0]), len(over)) if len(over) else ()
