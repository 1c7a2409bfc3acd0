"""Largest and smallest singular values of the products P_t = J_a ... J_{t+1} that end at the anchor a."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gradscope.metrics.track import Track, Tracks
from gradscope.numerics.analysis import Analysis
from gradscope.profile import Profile
from gradscope.records import Values


def largest(analysis: Analysis) -> Tracks:
    """log10 of the largest singular value of P_0 .. P_a; at log-spaced lags only for large states.

    None before the first full state.
    """
    if analysis.full:
        lags = reversed(range(analysis.past.length + 1))
        every = zip(lags, analysis.products.log10_norm.tolist(), strict=True)
        return {"log10_product_norm": Track(_by_step(analysis, every))}
    leading = analysis.leading
    found = zip(leading.lag, (leading.ln_sigma[:, 0] / math.log(10)).tolist(), strict=True)
    return {"log10_product_norm": Track(_by_step(analysis, found))}


def smallest(analysis: Analysis) -> Tracks:
    """log10 of the smallest singular value of P_0 .. P_a at log-spaced lags; None elsewhere and where unresolved."""
    spectra = zip(*analysis.spectra, strict=True)
    found = ((lag, float(one.ln_sigma[-1]) / math.log(10)) for lag, one in spectra if bool(one.resolved[-1]))
    return {"log10_product_min": Track(_by_step(analysis, found))}


def _by_step(analysis: Analysis, by_lag: Iterable[tuple[int, float]]) -> Values:
    """Values of some lags at steps 0 .. T; P_a is the identity, and there is no product after the anchor."""
    past, found = analysis.past, dict[int, float]()
    profile = Profile(past.begins + past.length)
    for lag, value in ((0, 0.0), *by_lag):
        found[profile.step_of(lag)] = value
    return tuple(found.get(step) for step in range(analysis.length + 1))
