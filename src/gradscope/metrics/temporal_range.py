"""Temporal range: the mean lag weighted by influence, sum k I(k) / sum I(k) (Lafuente-Mercado et al. 2025)."""

from __future__ import annotations

import math

import torch

from gradscope.numerics.analysis import Analysis, Unavailable


def measure(analysis: Analysis) -> float:
    """Temporal range in steps."""
    analysis.require_range()
    profile = analysis.profile.cpu()
    if float(profile.max()) == -math.inf:
        raise Unavailable("no step has any influence")
    weight = torch.pow(10.0, profile - profile.max())
    return float((weight * torch.arange(len(weight), dtype=torch.float64)).sum() / weight.sum())
