"""Gradients by parameter, as monitors of parameters see them; measured where a preset asks."""

from __future__ import annotations

from gradscope.models.direct import Direct
from gradscope.models.recurrent import Recurrent
from gradscope.numerics.analysis import Analysis
from gradscope.records import ParameterGradient


def measure(analysis: Analysis) -> tuple[ParameterGradient, ...] | None:
    """Mean magnitude and norm of dL/dW for each parameter, the loss averaged over sequences; None unless asked for."""
    run = analysis.runs[0]
    if not analysis.spec.preset or not isinstance(run.model, Recurrent | Direct):
        return None
    by_name, _ = analysis.by_parameter
    found = [(name, grad.double() / len(run.x)) for name, grad in by_name.items() if grad is not None]
    return tuple(ParameterGradient(name, float(g.abs().mean()), float(g.norm())) for name, g in found)
