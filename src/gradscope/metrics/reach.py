"""Reach: the largest lag whose influence is at least 1 % of that of lag 1."""

from __future__ import annotations

import math

from torch import Tensor

from gradscope.numerics.analysis import Analysis, Unavailable


def measure(analysis: Analysis) -> int:
    """Reach in steps. Lag 1 is the reference because the direct path of lag 0 exists in attention alone."""
    analysis.require_finite()
    analysis.require_causal()
    profile = analysis.profile
    if len(profile) < 2 or float(profile[1]) == -math.inf:
        raise Unavailable("the influence at lag 1 is exactly zero")
    found = of_profile(profile)
    assert found is not None
    return found


def of_profile(profile: Tensor) -> int | None:
    """The same of log10 I(k), lags 0, 1, ...; None where lag 1 has no influence."""
    if len(profile) < 2 or not float(profile[1]) > -math.inf:
        return None
    return int((profile[1:] >= profile[1] - 2).nonzero().max()) + 1
