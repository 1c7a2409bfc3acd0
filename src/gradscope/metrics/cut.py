"""A cut gradient: a step whose Jacobian is exactly zero although the new state does depend on the old one."""

from __future__ import annotations

from gradscope.numerics.analysis import Analysis


def measure(analysis: Analysis) -> int | None:
    """The newest such step."""
    analysis.require_full()
    return max(analysis.trace.cut_steps(analysis.spec.item), default=None)
