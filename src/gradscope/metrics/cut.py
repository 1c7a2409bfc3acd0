"""A cut gradient: a step whose Jacobian is exactly zero although the new state does depend on the old one."""

from __future__ import annotations

from gradscope.numerics.analysis import Analysis


def measure(analysis: Analysis) -> int | None:
    """The newest such step up to the anchor: what comes after it is on nobody's way."""
    analysis.require_full()
    return max((step for step in analysis.trace.cut_steps(analysis.spec.item) if step <= analysis.anchor), default=None)
