"""Gradient share S: log10 of the part of the anchor's input gradient that falls on the needed lag."""

from __future__ import annotations

import math

from gradscope.metrics.track import numbers
from gradscope.numerics.analysis import Analysis, Unavailable
from gradscope.profile import Profile


def measure(analysis: Analysis) -> float:
    """S = log10(g_K / sum_{k <= K} g_k), g the mean over sequences; of several seeds the largest; -inf for g_K = 0.

    What lies further back than the needed lag is no competitor; where no lag is needed K is the oldest step, and the
    sum runs over all.
    """
    analysis.require_range()
    g = analysis.mean_input_influence
    if float(g.max()) == -math.inf:
        raise Unavailable("no step has any influence")
    analysis.require_lag()
    found = [Profile(analysis.anchor, numbers(row)).share(analysis.needed_lag) for row in g]
    known = [share for share in found if share is not None]
    if not known:
        raise Unavailable("no step up to the needed lag has any influence")
    return max(known)
