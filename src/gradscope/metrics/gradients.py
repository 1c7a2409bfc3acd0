"""Norms of the loss's gradients with respect to states and inputs."""

from __future__ import annotations

import torch

from gradscope.metrics.track import Tracks, over_sequences
from gradscope.numerics.analysis import Analysis, Unavailable


def of_state(analysis: Analysis) -> Tracks:
    """log10 ||dL/ds_t||, t = 0 .. T, all layers together; None before the first full state."""
    found = over_sequences(torch.cat([adjoint.state.T for adjoint in analysis.adjoints]))
    return {"log10_grad_state": found.since(analysis.trace.begins)}


def of_input(analysis: Analysis) -> Tracks:
    """log10 ||dL/dx_t||, t = 1 .. T."""
    if analysis.trace.of_state:
        raise Unavailable("the model has no input")
    return {"log10_grad_input": over_sequences(analysis.input_gradient)}
