"""What remedies share that solve for a number on the data at hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from gradscope.fixes.layer import Change, Layer

LOG_GAINS = (math.log(0.125), math.log(16.0))
"""Gains of a recurrent matrix between which one is looked for, ln."""
LOOKS = 16
"""Parts of the interval that are looked at where the ends do not tell: neighbouring gains differ by a third."""


def crossing(value: Callable[[float], float], ends: tuple[float, float], wanted: float, halvings: int) -> float | None:
    """Where between the ends `value` passes `wanted` from below; None where it does not.

    By bisection between the ends, or where it is on one side at both (a squashing nonlinearity saturates, and the
    exponent falls again), between the first two neighbours of a grid that lie on both sides.
    """
    low, high = ends
    if not value(low) < wanted < value(high):
        places = [low + (high - low) * place / LOOKS for place in range(LOOKS + 1)]
        known = [value(place) for place in places]
        pairs = zip(pairwise(places), pairwise(known), strict=True)
        between = next((place for place, (a, b) in pairs if a < wanted < b), None)
        if between is None:
            return None
        low, high = between
        # As fine as by bisection from the ends.
        halvings = max(1, halvings - round(math.log2(LOOKS)))
    for _ in range(halvings):
        middle = (low + high) / 2
        low, high = (middle, high) if value(middle) < wanted else (low, middle)
    return (low + high) / 2


def scaled(log_gain: float) -> Change:
    """Multiplies W_hh."""

    def change(layer: Layer) -> bool:
        return layer.scale(math.exp(log_gain))

    return change
