"""Coverage: the share of lags >= 1 that have at least 1 % of the largest lagged influence."""

from __future__ import annotations

import math

from torch import Tensor

from gradscope.numerics.analysis import Analysis, Unavailable


def measure(analysis: Analysis) -> float:
    """Coverage, 0..1."""
    analysis.require_range()
    found = of_profile(analysis.profile)
    if found is None:
        raise Unavailable("no lagged step has any influence")
    return found


def of_profile(profile: Tensor) -> float | None:
    """The same of log10 I(k), lags 0, 1, ...; None where no lagged step has any influence."""
    lagged = profile[1:]
    if not len(lagged) or float(lagged.max()) == -math.inf:
        return None
    return float((lagged >= lagged.max() - 2).double().mean())
