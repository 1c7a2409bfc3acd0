"""Largest and smallest singular values of the products P_t."""

from __future__ import annotations

import math

from gradscope.metrics.track import Track, Tracks, numbers
from gradscope.numerics.analysis import Analysis


def largest(analysis: Analysis) -> Tracks:
    """log10 of the largest singular value of P_0 .. P_T; at log-spaced lags only for large states."""
    if analysis.full:
        return {"log10_product_norm": Track(numbers(analysis.products.log10_norm))}
    leading, values = analysis.leading, [None] * analysis.length + [0.0]
    found: list[float | None] = [*values]
    for lag, ln in zip(leading.lag, leading.ln_sigma[:, 0].tolist(), strict=True):
        found[analysis.length - lag] = ln / math.log(10)
    return {"log10_product_norm": Track(tuple(found))}


def smallest(analysis: Analysis) -> Tracks:
    """log10 of the smallest singular value of P_0 .. P_T at log-spaced lags; None elsewhere and where unresolved."""
    found: list[float | None] = [None] * analysis.length + [0.0]
    for lag, spectrum in zip(*analysis.spectra, strict=True):
        if bool(spectrum.resolved[-1]):
            found[analysis.length - lag] = float(spectrum.ln_sigma[-1]) / math.log(10)
    return {"log10_product_min": Track(tuple(found))}
