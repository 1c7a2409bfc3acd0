"""Fits and scores: a logistic curve, areas under curves, Wilson intervals, calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RIDGE = 0.05
"""Weight of a weak pull of the slope towards 0, so that separable data have a finite fit."""
FLOOR = -15.0
"""Shares below count as this: all of them are nothing."""


@dataclass(frozen=True)
class Curve:
    """P(fail) = 1 / (1 + exp(-(intercept + slope S)))."""

    intercept: float
    slope: float

    def at(self, share: float) -> float:
        """P(fail) at a gradient share (log10)."""
        return 1 / (1 + math.exp(-(self.intercept + self.slope * max(share, FLOOR))))


def fitted(shares: Sequence[float], fails: Sequence[bool]) -> Curve:
    """Maximum of the penalised likelihood, by Newton's method."""
    x = np.column_stack([np.ones(len(shares)), np.maximum(np.array(shares), FLOOR)])
    y, beta = np.array(fails, dtype=float), np.zeros(2)
    for _ in range(100):
        p = 1 / (1 + np.exp(-x @ beta))
        penalty = np.diag([0.0, RIDGE])
        step = np.linalg.solve(
            x.T @ (x * (p * (1 - p))[:, None]) + penalty + 1e-9 * np.eye(2), x.T @ (y - p) - penalty @ beta
        )
        beta = beta + step
        if float(np.abs(step).max()) < 1e-10:
            break
    return Curve(float(beta[0]), float(beta[1]))


def auc(values: Sequence[float], fails: Sequence[bool]) -> float:
    """How often a failing combination has the higher value, ties half; NaN where there is one kind alone."""
    bad = [v for v, f in zip(values, fails, strict=True) if f]
    good = [v for v, f in zip(values, fails, strict=True) if not f]
    if not bad or not good:
        return math.nan
    return sum((b > g) + 0.5 * (b == g) for b in bad for g in good) / (len(bad) * len(good))


def wilson(hits: int, of: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    if not of:
        return 0.0, 1.0
    z, p = 1.959963984540054, hits / of
    middle, half = p + z * z / (2 * of), z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    return (middle - half) / (1 + z * z / of), (middle + half) / (1 + z * z / of)


def calibration_error(probabilities: Sequence[float], fails: Sequence[bool], bins: int = 5) -> float:
    """Expected calibration error: |mean probability - share of failures| over equal bins, weighted by their size."""
    total = 0.0
    for place in range(bins):
        low, high = place / bins, (place + 1) / bins
        inside = [(p, f) for p, f in zip(probabilities, fails, strict=True) if low <= p < high or (p == 1.0 == high)]
        if inside:
            total += abs(sum(p for p, _ in inside) - sum(f for _, f in inside))
    return total / max(len(probabilities), 1)
