"""How often models with a gradient share failed to learn the lag: the curves of the detector benchmark.

Numbers of `benchmarks/detector/calibration.json`, which `python -m benchmarks.detector --score` makes from the outcomes
of the trainings beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

STEPS = 800
"""Training steps after which a lag that was not learned counts as not learned."""
FLOOR = -15.0
"""Shares below count as this: all of them are nothing."""
FIRM = 0.9
"""Probability from which on something is said without a doubt."""


@dataclass(frozen=True)
class Curve:
    """P(not learned) = 1 / (1 + exp(-(intercept + slope S))), S the gradient share, log10."""

    intercept: float
    slope: float
    combinations: int
    """Combinations of model, task and lag that it was fitted to."""
    failed: int

    def at(self, share: float) -> float:
        """P(not learned within `STEPS`)."""
        return 1 / (1 + math.exp(-(self.intercept + self.slope * max(share, FLOOR))))


PUBLISHED_SPREAD = (13, 17)
"""Of 17 published cells with a share under 10^-6, 13 learned to add at random places over 100 steps within about 2,000
training steps (torchrecurrent 0.2.5; `benchmarks/detector/published.py`)."""
CURVES: Mapping[str, Curve] = {
    "fixed": Curve(-4.1173, -1.4008, 9, 4),
}
"""Of the kind of lags. Of spread lags none: there the share at initialisation says nothing (AUC near one half)."""
