"""All metrics of a model, with the reason for each that there is not; the series and bands over steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gradscope.numerics.analysis import Analysis
from gradscope.numerics.influence import geometric_mean
from gradscope.numerics.trace import NotMeasured, attempted
from gradscope.records import Band, Series, Summary, Values
from gradscope.registry import COMPARE_METRICS, SERIES_METRICS, SUMMARY_METRICS, load

# 97.5 % quantiles of Student's t for 1 .. 30 degrees of freedom (standard tables).
_T975 = (
    12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139,
    2.200985, 2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922, 2.093024, 2.085963,
    2.079614, 2.073873, 2.068658, 2.063899, 2.059539, 2.055529, 2.051831, 2.048407, 2.045230, 2.042272,
)  # fmt: skip
_Z975 = 1.959963985


def t_quantile(freedom: int) -> float:
    """97.5 % quantile of Student's t; beyond 30 degrees of freedom by the Cornish-Fisher series, to 1e-5."""
    if freedom <= len(_T975):
        return _T975[freedom - 1]
    z = _Z975
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    return z + (z**3 + z) / (4 * freedom) + second + third


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % t-interval of the mean; None for fewer than two values."""
    n = len(values)
    if n < 2:
        return None
    mean = math.fsum(values) / n
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = t_quantile(n - 1) * spread / math.sqrt(n)
    return mean - half, mean + half


Tracks = dict[str, "Track"]


@dataclass(frozen=True)
class Track:
    """Values, and the smallest and largest of them where there are several sequences."""

    values: Values
    low: Values | None = None
    high: Values | None = None

    def since(self, step: int) -> Track:
        """The same without what stands before a step: None there."""
        parts = (
            part if part is None else (*[None] * step, *part[step:]) for part in (self.values, self.low, self.high)
        )
        values, low, high = parts
        assert values is not None
        return Track(values, low, high) if step else self


def over_sequences(logs: Tensor, has: Tensor | None = None) -> Track:
    """Geometric mean of log10 values (sequences, steps), with the least and the largest.

    Args:
        logs: the values.
        has: which of them there are; all of them if absent. Where there is none at all, zero stands.
    """
    mean = geometric_mean(logs, has)
    if len(logs) == 1:
        return Track(numbers(mean))
    low = logs if has is None else torch.where(has | ~has.any(0), logs, math.inf)
    return Track(numbers(mean), numbers(low.amin(0)), numbers(logs.amax(0)))


def numbers(values: Tensor) -> Values:
    """A tensor as plain floats."""
    return tuple(values.to(torch.float64).tolist())


def power(log10: float) -> float:
    """10^x, zero and infinity included."""
    return 0.0 if log10 == -math.inf else math.inf if log10 > 308 else 10.0**log10


EARLY = (
    *("rate", "rate_ci", "gain", "half_life", "reach", "coverage", "temporal_range", "gradient_share", "zero_lags"),
    *("overflow_lags", "lags", "mixed", "axes_guessed"),
)
"""Metrics that need no Jacobian: what the verdict of most models rests on, and known long before spectra are."""
EARLY_SERIES = ("log10_influence", "log10_grad_input")
Skips = dict[str, str]
"""Name of a value -> why it is absent."""
MetricValues = tuple[Summary, Series, Skips]


def gather(analysis: Analysis, table: Mapping[str, str]) -> tuple[dict[str, Any], Skips]:
    """The value of every metric in `table`, and the reasons of those that have none."""
    found, skipped = {}, {}
    for name, reference in table.items():
        value = attempted(partial(load(reference), analysis))
        if isinstance(value, NotMeasured):
            skipped[name] = value.reason
        else:
            found[name] = value
    return found, skipped


def checks(analysis: Analysis) -> Skips:
    """Why it is not known whether the pass is finite, or whether what is analysed is the user's model."""
    found = {"non_finite": analysis.finiteness, "equality_check": analysis.proof}
    return {name: value.reason for name, value in found.items() if isinstance(value, NotMeasured)}


def summary(analysis: Analysis, *, costs: bool) -> tuple[Summary, Skips]:
    """All summary values; operations on the autograd graph, which take a while to count, only for `costs`."""
    table = {**SUMMARY_METRICS, **COMPARE_METRICS} if costs else SUMMARY_METRICS
    found, skipped = gather(analysis, table)
    skipped |= checks(analysis)
    return Summary(needed_lag=analysis.needed_lag, non_finite=analysis.first_non_finite, **found), skipped


def metrics_before_jacobians(analysis: Analysis) -> MetricValues:
    """What is known before any Jacobian: the influence and what follows from it."""
    found, skipped = gather(analysis, {name: SUMMARY_METRICS[name] for name in EARLY})
    summary = Summary(needed_lag=analysis.needed_lag, non_finite=analysis.first_non_finite, **found)
    own, more = gather(analysis, {name: SERIES_METRICS[name] for name in EARLY_SERIES})
    values = {name: track.values for group in own.values() for name, track in group.items()}
    reasons = {**skipped, **more, **checks(analysis)}
    return summary, Series(tuple(range(analysis.length + 1)), None, values), reasons


def series(analysis: Analysis, tokens: tuple[str, ...] | None) -> tuple[Series, dict[str, Band], Skips]:
    """All series with their bands."""
    found, skipped = gather(analysis, SERIES_METRICS)
    tracks: dict[str, Track] = {name: track for group in found.values() for name, track in group.items()}
    bands = {n: Band(t.low, t.high) for n, t in tracks.items() if t.low is not None and t.high is not None}
    values = {name: track.values for name, track in tracks.items()}
    return Series(tuple(range(analysis.length + 1)), tokens, values), bands, skipped
