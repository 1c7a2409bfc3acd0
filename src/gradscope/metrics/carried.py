"""Carried floats: how many numbers a model takes from one step to the next."""

from __future__ import annotations

import math

from gradscope.models.direct import Direct
from gradscope.numerics.analysis import Analysis, Unavailable


def measure(analysis: Analysis) -> int:
    """The state of a recurrence: the same at any length. For attention, keys and values of every step so far."""
    model = analysis.model
    if not isinstance(model, Direct):
        return analysis.trace.size
    analysis.require_causal()
    if (found := analysis.trace.carried) is not None:
        return found
    kept = None if model.carried is None else model.carried(analysis.length)
    if kept is not None:
        return kept
    if model.kind == "attention" and model.weights is not None:
        layers = model.weights(analysis.runs[0].x[:1, :2])
        return math.prod((2, len(layers), analysis.trace.size, analysis.length))
    raise Unavailable("what this module keeps between steps is not known")
