"""The influence profile, lags 0, 1, ..."""

from __future__ import annotations

from gradscope.metrics.track import Tracks, over_sequences
from gradscope.numerics.analysis import Analysis


def measure(analysis: Analysis) -> Tracks:
    """log10 I(k)."""
    return {"log10_influence": over_sequences(analysis.influence)}
