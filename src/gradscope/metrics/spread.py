"""How far reach and coverage would move by chance: their standard errors."""

from __future__ import annotations

import math
from statistics import stdev

from gradscope.metrics.coverage import of_profile as coverage_of
from gradscope.metrics.reach import of_profile as reach_of
from gradscope.numerics.analysis import Analysis, Unavailable
from gradscope.numerics.gradients.influence import geometric_mean


def measure(analysis: Analysis) -> dict[str, float]:
    """Standard error of each over the seeds, whose weights differ; over its sequences where there is one seed.

    s / sqrt(n), s being the standard deviation over n profiles: the geometric mean of each seed, or each sequence over
    the lags that it has; one that the loss does not read has none.

    Raises:
        Unavailable: a single sequence and seed, or profiles of which nothing follows.
    """
    analysis.require_finite()
    influence, seeds = analysis.influence, len(analysis.runs)
    if seeds > 1:
        profiles = [geometric_mean(rows) for rows in influence.tensor_split(seeds)]
    else:
        profiles = [row[:own] for row, own in zip(influence, analysis.own_lags.tolist(), strict=True) if own]
    if len(profiles) < 2:
        raise Unavailable("one sequence and one seed have no spread")
    return {"reach": _error([reach_of(p) for p in profiles]), "coverage": _error([coverage_of(p) for p in profiles])}


def _error(values: list[int | None] | list[float | None]) -> float:
    """Standard error of the mean; what has no value counts as none at all."""
    found = [float(value or 0.0) for value in values]
    return stdev(found) / math.sqrt(len(found))
