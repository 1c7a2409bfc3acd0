"""Numbers as people read them. Magnitudes arrive as base-10 logarithms, so 1e-400 prints as what it is."""

from __future__ import annotations

import math
from typing import Any

from gradscope.records import Number

MISSING = "-"


def as_number(value: Any) -> Number:
    """A float from a loosely typed record (`"nan"`, `"inf"`, `"-inf"` as in the file format), None if it is none."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, (int, float)) or value in {"nan", "inf", "-inf"}:
        return float(value)
    return None


def plain(value: Number, digits: int = 3) -> str:
    """`value` to so many significant digits; a dash where it is unknown."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return str(float(value))
    short = f"{value:.{digits}g}"
    # Asked of what is written: 99.7 to two digits is 100, and not 1e+02.
    return f"{value:.0f}" if "e+" in short and abs(value) < 1e6 else short


def scientific(log10: Number, digits: int = 2) -> str:
    """10 to the power `log10` in scientific notation, at any exponent: -399.5 gives `3.2e-400`."""
    if log10 is None:
        return MISSING
    if not math.isfinite(log10):
        return "0" if log10 == -math.inf else str(float(log10))
    exponent = math.floor(log10)
    mantissa = f"{10.0 ** (log10 - exponent):.{digits - 1}f}"
    if mantissa.startswith("10"):
        exponent += 1
        mantissa = f"{1.0:.{digits - 1}f}"
    return f"{mantissa}e{exponent:+03d}"


def readable(log10: Number) -> str:
    """10 to the power `log10`: `0.548` where a person would write it so, scientific notation elsewhere."""
    if log10 is None or not -2.0 <= log10 < 2.9997:
        return scientific(log10)
    value = 10.0**log10
    return f"{value:.3f}" if value < 10 else f"{value:.{2 - math.floor(log10)}f}"


def share(log10: Number) -> str:
    """A part of a whole from its logarithm: `12 %`, `0.3 %`, `10^-52`."""
    if log10 is None:
        return MISSING
    if log10 == -math.inf:
        return "nothing"
    if not math.isfinite(log10):
        return str(float(log10))
    return percent(10.0**log10) if -3 <= log10 <= 1 else power(log10)


def percent(part: Number) -> str:
    """A fraction of one in percent: `0.46 %`, `25 %`, `100 %`."""
    if part is None:
        return MISSING
    return f"{100 * part:.0f} %" if 0.0995 <= part < 1e6 else f"{plain(100 * part, 2)} %"


def power(log10: Number) -> str:
    """`10^-52`: the order of magnitude alone."""
    if log10 is None:
        return MISSING
    if not math.isfinite(log10):
        return "0" if log10 == -math.inf else str(float(log10))
    return f"10^{round(log10)}"


def gain(rate: Number) -> str:
    """Factor per step back, e^rate; as many decimals as it takes to tell it from 1."""
    if rate is None:
        return MISSING
    if not math.isfinite(rate) or abs(rate) > 20:
        return scientific(rate / math.log(10))
    value = math.exp(rate)
    return (
        f"{value:.2f}"
        if abs(value - 1) >= 0.005 and value >= 0.1
        else f"{value:.4g}"
        if value < 0.1
        else f"{value:.4f}"
    )


def milliseconds(seconds: Number) -> str:
    """A wall time in ms to two digits or all whole ones, no exponent."""
    if seconds is None or not math.isfinite(seconds):
        return plain(seconds)
    value = 1000 * seconds
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
