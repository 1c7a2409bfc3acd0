"""The influence profile, lags 0, 1, ..."""

from __future__ import annotations

import torch

from gradscope.metrics.track import Tracks, over_sequences
from gradscope.numerics.analysis import Analysis


def measure(analysis: Analysis) -> Tracks:
    """log10 I(k); each lag over the sequences that have it."""
    logs = analysis.influence
    own = torch.arange(logs.shape[1]) < analysis.own_lags[:, None]
    return {"log10_influence": over_sequences(logs, own.to(logs.device))}
