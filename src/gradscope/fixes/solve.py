"""What remedies share that solve for a number on the data at hand."""

from __future__ import annotations

import math
from collections.abc import Callable

from gradscope.fixes.layer import Change, Layer

LOG_GAINS = (math.log(0.125), math.log(16.0))
"""Gains of a recurrent matrix between which one is looked for, ln."""


def crossing(value: Callable[[float], float], ends: tuple[float, float], wanted: float, halvings: int) -> float | None:
    """Where between the ends `value` passes `wanted` from below, by bisection; None where it does not."""
    low, high = ends
    if not value(low) < wanted < value(high):
        return None
    for _ in range(halvings):
        middle = (low + high) / 2
        low, high = (middle, high) if value(middle) < wanted else (low, middle)
    return (low + high) / 2


def scaled(log_gain: float) -> Change:
    """Multiplies W_hh."""

    def change(layer: Layer) -> bool:
        return layer.scale(math.exp(log_gain))

    return change
