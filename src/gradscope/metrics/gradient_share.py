"""Gradient share S: log10 of the part of the anchor's input gradient that falls on the needed lag."""

from __future__ import annotations

import math

from gradscope.numerics.analysis import Analysis, Unavailable
from gradscope.numerics.scale import log10_sum


def measure(analysis: Analysis) -> float:
    """S = log10(g_K / sum_k g_k), g the mean over sequences, the largest over seeds; -inf when g_K is zero."""
    analysis.require_finite()
    g = analysis.mean_input_influence
    if float(g.max()) == -math.inf:
        raise Unavailable("no step has any influence")
    if g.shape[1] <= analysis.needed_lag:
        raise Unavailable(f"the loss reads no output that has {analysis.needed_lag} steps before it")
    share = g[:, analysis.needed_lag] - log10_sum(g, 1)
    return float(share.nan_to_num(nan=-math.inf, neginf=-math.inf).max())
