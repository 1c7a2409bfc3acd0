"""What receives no gradient at all: parameters, and features of the input."""

from __future__ import annotations

import torch
from torch import Tensor

from gradscope.models.direct import Direct
from gradscope.models.recurrent import Recurrent
from gradscope.numerics.analysis import Analysis, Unavailable

MOST = 6
"""How many are named."""


def measure(analysis: Analysis) -> tuple[str, ...]:
    """Names of those that the loss does not depend on, `input feature 3` among them; () where all are heard.

    Raises:
        Unavailable: the model has no loss that could be differentiated.
    """
    analysis.require_finite()
    run = analysis.runs[0]
    if isinstance(run.model, Recurrent):
        found = _features(analysis.adjoints[0].below.m.transpose(0, 1)) if run.x.shape[-1] else []
        return _named(found)
    if not isinstance(run.model, Direct):
        raise Unavailable("a chain of Jacobians has neither input nor parameters")
    by_name, given = analysis.by_parameter
    if not by_name and given is None:
        raise Unavailable("nothing of the model can be differentiated")
    silent = [name for name, grad in by_name.items() if is_zero(grad)]
    return _named([*([] if given is None else _features(given)), *silent])


def is_zero(gradient: Tensor | None) -> bool:
    """Whether nothing at all arrives."""
    return gradient is None or not bool((gradient != 0).any())


def _features(gradient: Tensor) -> list[str]:
    """Features of (batch, T, features) that receive nothing at any step."""
    heard = (gradient != 0).flatten(0, 1).any(0)
    return [f"input feature {place}" for place in torch.nonzero(~heard).flatten().tolist()]


def _named(found: list[str]) -> tuple[str, ...]:
    return (*found[:MOST], f"{len(found) - MOST} more") if len(found) > MOST else tuple(found)
