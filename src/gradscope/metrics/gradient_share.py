"""Gradient share S: log10 of the part of the anchor's input gradient that falls on the needed lag."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradscope.metrics.track import numbers
from gradscope.numerics.analysis import Analysis, Unavailable
from gradscope.numerics.scale import log10_sum
from gradscope.profile import Profile


def measure(analysis: Analysis) -> float:
    """S = log10(g_K / sum_{k <= K} g_k), g the mean over sequences; of several seeds the largest; -inf for g_K = 0.

    What lies further back than the needed lag is no competitor; where no lag is needed K is the oldest step, and the
    sum runs over all.
    """
    analysis.require_range()
    g = _mean_over_sequences(analysis)
    if float(g.max()) == -math.inf:
        raise Unavailable("no step has any influence")
    analysis.require_lag()
    found = [Profile(analysis.anchor, numbers(row)).share(analysis.needed_lag) for row in g]
    known = [share for share in found if share is not None]
    if not known:
        raise Unavailable("no step up to the needed lag has any influence")
    return max(known)


def _mean_over_sequences(analysis: Analysis) -> Tensor:
    """log10 of the *arithmetic* mean over the sequences of every seed, (seeds, lags)."""
    found = []
    for rows, ends in zip(analysis.influence.tensor_split(len(analysis.runs)), analysis.newest, strict=True):
        # A sequence that is shorter than the needed lag has no say in what arrives there.
        long = None if ends is None else (ends > analysis.needed_lag).to(rows.device)
        kept = rows if long is None or not bool(long.any()) else rows[long]
        found.append(log10_sum(kept, 0) - math.log10(len(kept)))
    return torch.stack(found)
