"""Carried floats: how many numbers a model takes from one step to the next."""

from __future__ import annotations

import math

from gradscope.models.direct import Direct
from gradscope.numerics.analysis import Analysis, Unavailable


def measure(analysis: Analysis) -> int:
    """The state of a recurrence: the same at any length. For attention, keys and values of every step so far."""
    if isinstance(analysis.model, Direct):
        if analysis.model.weights is None:
            raise Unavailable("what this module keeps between steps is not known")
        layers = analysis.model.weights(analysis.runs[0].x[:1, :2])
        return math.prod((2, len(layers), analysis.model.width or analysis.trace.size, analysis.length))
    return analysis.trace.size
