"""The chain rule held against torch, as a number; a chain that does not keep it has none, and no other either."""

from __future__ import annotations

from gradscope.numerics.analysis import Analysis
from gradscope.numerics.checks.chain_rule import through_product as through_product


def measure(analysis: Analysis) -> float:
    """||dL/ds_0 - P_0^T dL/ds_T|| / ||dL/ds_0||, s_0 being the first full state."""
    analysis.chain  # noqa: B018 - one that does not keep the rule raises
    return analysis.chain_rule_residual
