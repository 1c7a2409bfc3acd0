"""How often combinations of model, task and lag with a gradient share failed to learn, in the detector benchmark.

Counts of `benchmarks/detector/calibration.json`, which `python -m benchmarks.detector --score` makes from the outcomes
of the trainings beside it. The lower limit is that of a pilot of 2,608 trainings that came before them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

STEPS = 800
"""Training steps after which a lag that was not learned counts as not learned."""
SHARE_FAILS, SHARE_LEARNS = -6.0, -1.75
"""Gradient shares (log10) below which a fixed lag is said not to be learned, and above which it is said to be.

The upper one was chosen on the outcomes of the benchmark's first study."""
GROWTH = 1.0
"""Growth of the influence over the lag, in nats, beyond which a large share says nothing: it belongs to old steps.
Chosen on the outcomes of the benchmark's first study."""
Word = Literal["fails", "learns", "open"]


@dataclass(frozen=True)
class Band:
    """Shares of one kind, and what came of them."""

    failed: int
    """Learned in no run."""
    of: int
    blocked: int = 0
    """Failed where another initialisation of the same family learned."""


FIXED: dict[Word, Band] = {"fails": Band(45, 45, 26), "open": Band(54, 107, 27), "learns": Band(13, 64, 5)}
"""Fixed lags, both studies."""
PUBLISHED_SPREAD = Band(4, 17)
"""Of 17 published cells with a share under 10^-6, 4 did not learn to add at random places over 100 steps within about
2,000 training steps (torchrecurrent 0.2.5; `benchmarks/detector/published.py`)."""
