"""Rows that charts are drawn from: long series thinned so that the worst of every stretch stays, at its own place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from gradscope.charts.look import ODD
from gradscope.profile import INFLUENCE, Profile
from gradscope.records import Band, ModelResult, Number, Report

MOST = 300
"""Stretches that a series is cut into; each keeps its least and its largest value, and what is not finite."""
DIGITS = 5

Row = dict[str, Any]


def names(report: Report) -> list[str]:
    """Names of the models as charts show them, told apart."""
    return [model.name for model in report.models]


def thinned(xs: Sequence[int], ys: Sequence[Number], by: str, *, log: bool = True, most: int = MOST) -> list[Row]:
    """Rows `x`, `y`, `by`, and `odd` (its name in words, without `y`) for what is no finite number.

    At most `most` stretches with two finite rows and the first and last odd one each: nothing hides in a mean.
    """
    known = [(x, y) for x, y in zip(xs, ys, strict=False) if y is not None]
    size = max(1, math.ceil(len(known) / most))
    found: list[Row] = []
    for start in range(0, len(known), size):
        kept = sorted({*_extremes(known[start : start + size])})
        found += [_row(*known[start + place], by, log) for place in kept]
    return found


def _extremes(stretch: Sequence[tuple[int, float]]) -> Iterator[int]:
    finite = [place for place, (_, y) in enumerate(stretch) if math.isfinite(y)]
    odd = [place for place, (_, y) in enumerate(stretch) if not math.isfinite(y)]
    if finite:
        yield min(finite, key=lambda place: stretch[place][1])
        yield max(finite, key=lambda place: stretch[place][1])
    if odd:
        yield from (odd[0], odd[-1])


def _row(x: int, y: float, by: str, log: bool) -> Row:
    if math.isfinite(y):
        return {"x": x, "y": rounded(y), "by": by}
    what = "nan" if math.isnan(y) else "inf" if y > 0 else "zero" if log else "-inf"
    return {"x": x, "y": None, "by": by, "odd": ODD[what]}


def rounded(value: float) -> float:
    """To as many digits as a picture can show."""
    return float(f"{value:.{DIGITS}g}")


def odd_in(rows: Iterable[Row]) -> set[str]:
    """Which kinds of odd numbers occur."""
    seen = {row.get("odd") for row in rows}
    return {what for what, words in ODD.items() if words in seen}


def finite_in(rows: Iterable[Row]) -> list[float]:
    """All finite values."""
    return [row["y"] for row in rows if row["y"] is not None]


def over_steps(model: ModelResult, name: str, by: str | None = None, *, log: bool = True) -> list[Row]:
    """Rows of a series that ends at the last step."""
    values = model.series.values.get(name, ())
    steps = model.series.step or tuple(range(len(values)))
    return thinned(steps[len(steps) - len(values) :], values, by or model.name, log=log)


def profile(model: ModelResult) -> list[Number]:
    """log10 I(k) / I(1), lags 0 .. ."""
    found = Profile.of(model)
    return [None if value is None else value - found.reference for value in found.values]


def band(model: ModelResult, most: int = MOST) -> list[Row]:
    """Rows `x`, `low`, `high`, `by`: least and largest of every stretch of lags, where both are finite."""
    bounds = model.bands.get(INFLUENCE, Band((), ()))
    shift = Profile.of(model).reference
    known = [
        (lag, low - shift, high - shift)
        for lag, (low, high) in enumerate(zip(bounds.low, bounds.high, strict=False))
        if low is not None and high is not None and math.isfinite(low) and math.isfinite(high)
    ]
    size = max(1, math.ceil(len(known) / most))
    stretches = (known[start : start + size] for start in range(0, len(known), size))
    return [
        {
            "x": stretch[len(stretch) // 2][0],
            "low": rounded(min(low for _, low, _ in stretch)),
            "high": rounded(max(high for _, _, high in stretch)),
            "by": model.name,
        }
        for stretch in stretches
    ]
