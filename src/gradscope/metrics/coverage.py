"""Coverage: the share of lags >= 1 that have at least 1 % of the largest lagged influence."""

from __future__ import annotations

import math

from gradscope.numerics.analysis import Analysis, Unavailable


def measure(analysis: Analysis) -> float:
    """Coverage, 0..1."""
    analysis.require_finite()
    lagged = analysis.profile[1:]
    if not len(lagged) or float(lagged.max()) == -math.inf:
        raise Unavailable("no lagged step has any influence")
    return float((lagged >= lagged.max() - 2).double().mean())
