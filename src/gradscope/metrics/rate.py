"""Rate r: least-squares slope of ln I(k) over lags 1..K, nats per step back, and what follows from it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradscope.metrics.interval import mean_interval
from gradscope.numerics.analysis import Analysis, Unavailable


def slopes(logs: Tensor) -> list[float]:
    """Slope of every row of ln I over lags 1, 2, ...; rows with under two values are dropped.

    Exact zeros and what overflows are left out: neither has a logarithm that a line could pass through.

    Args:
        logs: ln I(k), (sequences, lags), column 0 being lag 1.
    """
    lags = torch.arange(1, logs.shape[1] + 1, dtype=torch.float64)
    weight = logs.isfinite().double()
    count = weight.sum(1)
    values = torch.where(weight > 0, logs, torch.zeros_like(logs))
    mid = (weight * lags).sum(1, keepdim=True) / count.clamp_min(1)[:, None]
    off = (lags - mid) * weight
    found = (off * values).sum(1) / off.square().sum(1)
    return [float(slope) for slope, n in zip(found, count, strict=True) if n >= 2]


def _per_sequence(analysis: Analysis) -> list[float]:
    analysis.require_gradient()
    found = slopes(analysis.influence[:, 1 : analysis.needed_lag + 1].cpu() * math.log(10))
    if not found and bool((analysis.influence == math.inf).any()):
        # It overflows before there are two lags for a line.
        return [math.inf]
    if not found:
        raise Unavailable("fewer than two lags have any influence, so there is no slope")
    return found


def rate(analysis: Analysis) -> float:
    """Mean slope over sequences and seeds; infinite where the gradient overflows at once."""
    found = _per_sequence(analysis)
    return math.fsum(found) / len(found)


def interval(analysis: Analysis) -> tuple[float, float]:
    """95 % t-interval of the mean slope."""
    distinct = torch.unique(analysis.influence, dim=0)
    found = mean_interval(_per_sequence(analysis)) if len(distinct) > 1 else None
    if found is None:
        raise Unavailable("one sequence and one seed give no interval; equal sequences count once")
    return found


def gain(analysis: Analysis) -> float:
    """e^r: the factor on the gradient for each step back."""
    return math.exp(min(rate(analysis), 700.0))


def half_life(analysis: Analysis) -> float:
    """Ln 2 / |r| in steps: how far back until half is lost (or, growing, until it doubles)."""
    found = rate(analysis)
    return math.log(2) / abs(found) if found else math.inf
