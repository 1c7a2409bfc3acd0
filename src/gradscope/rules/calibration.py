"""What became of trained combinations of model, task and lag, by how much of the gradient arrives at the needed lag.

Counts of `benchmarks/detector/calibration.json`, which `python -m benchmarks.detector --score` makes from the outcomes
of the trainings beside it. The lower limit is that of a pilot of 2,608 trainings that came before them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

STEPS = 800
"""Training steps after which a lag that was not learned counts as not learned."""
SHARE_FAILS = -6.0
"""Gradient share S (log10) at the needed lag under which a fixed lag fails."""
SHARE_ARRIVES = -1.0
"""S + log10(K + 1), the share beside the uniform one 1 / (K + 1), from which on the gradient arrives: a tenth."""
GROWTH = math.log(10)
"""Growth of the influence over the lag, in nats, up to which a gradient that arrives is healthy: ten times."""
NEAR = 30
"""Lags up to this one are counted apart from longer ones."""
Word = Literal["fails", "open", "arrives"]
"""Of the gradient at the needed lag: too little of it, something between, or about as much as anywhere else."""


@dataclass(frozen=True)
class Count:
    """Combinations, and in how many of them at least one run learned."""

    learned: int
    of: int


@dataclass(frozen=True)
class Band:
    """Combinations of one word with fixed lags, over both studies."""

    failed: int
    """Learned in no run."""
    of: int
    blocked: int
    """Failed where another initialisation of the same family learned."""
    single: tuple[Count, Count]
    """Recall and adding, which ask for what is remembered and nothing else: at lags up to 30, and at longer ones."""
    hard: tuple[Count, Count]
    """Copy and xor, which ask for capacity, or for a search as well."""


FIXED: dict[Word, Band] = {
    "fails": Band(45, 45, 26, (Count(0, 2), Count(0, 19)), (Count(0, 4), Count(0, 20))),
    "open": Band(34, 62, 20, (Count(9, 17), Count(8, 18)), (Count(7, 16), Count(4, 11))),
    "arrives": Band(33, 109, 12, (Count(34, 37), Count(7, 12)), (Count(29, 41), Count(6, 19))),
}
PARITY = Count(0, 16)
"""Parity asks for every step, and for a search."""
PUBLISHED_SPREAD = Count(13, 17)
"""Of 17 published cells with a share under 10^-6, 13 learned to add at random places over 100 steps within about
2,000 training steps (torchrecurrent 0.2.5; `benchmarks/detector/published.py`)."""
