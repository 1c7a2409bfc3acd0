"""Walk the tables of metrics and gather what each one says, or why it says nothing."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from gradscope.metrics.series import Track
from gradscope.numerics.analysis import Analysis
from gradscope.numerics.traces.trace import NotMeasured, attempted
from gradscope.records import Band, Series, Summary
from gradscope.registry import COMPARE_METRICS, SERIES_METRICS, SUMMARY_METRICS, load

EARLY = (
    *("rate", "rate_ci", "gain", "half_life", "reach", "coverage", "temporal_range", "gradient_share", "zero_lags"),
    *("overflow_lags", "lags", "mixed", "axes_guessed"),
)
"""Metrics that need no Jacobian: what the verdict of most models rests on, and known long before spectra are."""
EARLY_SERIES = ("log10_influence", "log10_grad_input")
Skips = dict[str, str]
"""Name of a value -> why it is absent."""
Measured = tuple[Summary, Series, Skips]


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


def early(analysis: Analysis) -> Measured:
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
