"""Rate r: least-squares slope of ln I(k) over lags 1..K, nats per step back, and what follows from it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradscope.metrics.interval import mean_interval
from gradscope.numerics.analysis import Analysis, Unavailable

EQUAL = 1e-12
"""Spread of slopes, beside the largest of them, that is rounding."""


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


def _by_seed(analysis: Analysis) -> list[list[float]]:
    """The slopes of every seed's sequences; at least one seed has one."""
    analysis.require_gradient()
    logs = analysis.influence[:, 1 : analysis.needed_lag + 1].cpu() * math.log(10)
    found = [own for rows in logs.tensor_split(len(analysis.runs)) if (own := slopes(rows))]
    if not found and bool((analysis.influence == math.inf).any()):
        # It overflows before there are two lags for a line.
        return [[math.inf]]
    if not found:
        raise Unavailable("fewer than two lags have any influence, so there is no slope")
    return found


def _means(seeds: list[list[float]]) -> list[float]:
    return [math.fsum(slopes) / len(slopes) for slopes in seeds]


def rate(analysis: Analysis) -> float:
    """Mean slope over the sequences of every seed, then over seeds; infinite where the gradient overflows at once."""
    found = _means(_by_seed(analysis))
    return math.fsum(found) / len(found)


def interval(analysis: Analysis) -> tuple[float, float]:
    """95 % t-interval of the rate: over the means of several seeds, else over the sequences of one.

    Sequences of one seed share its weights, so that with several seeds they are no independent draws: counting each
    would make the interval narrower by the square root of their number, whatever the weights do.

    Raises:
        Unavailable: there is one slope alone, or all are equal; the reason says which.
    """
    seeds = _by_seed(analysis)
    for values in (_means(seeds), seeds[0]):
        if max(values) - min(values) > EQUAL * max(map(abs, values)):
            found = mean_interval(values)
            assert found is not None
            return found
    count = len(analysis.influence)
    if count == 1:
        raise Unavailable("one sequence and one seed, so there is no interval")
    if len(seeds) == len(seeds[0]) == 1:
        raise Unavailable(f"only one of {count} sequences has a slope, so there is no interval")
    known = sum(map(len, seeds))
    which = f"all {count} sequences" if known == count else f"all {known} of {count} sequences that have a slope"
    raise Unavailable(f"{which} have the same{' slope' if known == count else ''}, so there is no interval")


def gain(analysis: Analysis) -> float:
    """e^r: the factor on the gradient for each step back."""
    return math.exp(min(rate(analysis), 700.0))


def half_life(analysis: Analysis) -> float:
    """Ln 2 / |r| in steps: how far back until half is lost (or, growing, until it doubles)."""
    found = rate(analysis)
    return math.log(2) / abs(found) if found else math.inf
