"""Rank loss: the first step whose Jacobian kills a direction of the state."""

from __future__ import annotations

from gradscope.numerics.analysis import Analysis


def measure(analysis: Analysis) -> int | None:
    """Step t of the first singular J_t up to the anchor; None where all are regular in double precision."""
    analysis.require_full()
    lost = analysis.exponents.rank_lost_at
    return None if lost is None else analysis.chain.begins + lost
