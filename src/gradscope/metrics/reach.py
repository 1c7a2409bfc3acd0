"""Reach: the largest lag whose influence is at least 1 % of that of lag 1."""

from __future__ import annotations

from torch import Tensor

from gradscope.metrics.track import numbers
from gradscope.numerics.analysis import Analysis, Unavailable
from gradscope.profile import Profile


def measure(analysis: Analysis) -> int:
    """Reach in steps. Lag 1 is the reference because the direct path of lag 0 exists in attention alone."""
    analysis.require_gradient()
    analysis.require_causal()
    found = of_profile(analysis.profile)
    if found is None:
        raise Unavailable("the influence at lag 1 is exactly zero")
    return found


def of_profile(profile: Tensor) -> int | None:
    """The same of log10 I(k), lags 0, 1, ...; None where lag 1 has no influence."""
    return Profile(len(profile), numbers(profile)).reach
