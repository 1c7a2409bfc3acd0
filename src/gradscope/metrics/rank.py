"""Rank loss: the first step whose Jacobian kills a direction of the state."""

from __future__ import annotations

from gradscope.numerics.analysis import Analysis


def measure(analysis: Analysis) -> int | None:
    """Step t of the first singular J_t; None where all are regular, as far as double precision tells."""
    analysis.require_full()
    return analysis.exponents.rank_lost_at
