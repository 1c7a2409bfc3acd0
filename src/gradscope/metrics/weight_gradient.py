"""||dL/dW||, the weights of the recurrence together, without embeddings and heads: what parameter monitors watch."""

from __future__ import annotations

from gradscope.numerics.analysis import Analysis, Unavailable


def measure(analysis: Analysis) -> float:
    """log10 of the norm, of the first run's whole loss."""
    analysis.require_finite()
    found = analysis.adjoints[0].weight_gradient
    if found is None:
        raise Unavailable("the cell has no parameters")
    return found
