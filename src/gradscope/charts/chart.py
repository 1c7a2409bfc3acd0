"""What a chart is, the rows it is drawn from, and lines over steps or lags, which most charts are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import altair as alt

from gradscope.charts import look
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


class Data(dict[str, list[dict[str, Any]]]):
    """Rows by name, beside the charts that refer to them: Altair looks at every row that it is given whole."""

    def chart(self, rows: list[dict[str, Any]]) -> alt.Chart:
        """A chart of these rows; equal rows are kept once."""
        name = f"rows-{sha256(repr(rows).encode()).hexdigest()[:12]}"
        self[name] = rows
        return alt.Chart(alt.NamedData(name))

    @property
    def first(self) -> str:
        """Name of the rows that came first."""
        return next(iter(self), "")


@dataclass(frozen=True)
class Panel:
    """One picture of a chart: most charts are a single one, heat maps one per model."""

    picture: Any
    """An Altair `Chart` or `LayerChart` of one view, without a width: page and files give it theirs."""
    data: Data
    title: str = ""
    reads: dict[str, Any] = field(default_factory=dict)
    """How a pointer reads values off it: `x` (`lag` or `step`), the fields `y` and `by`, and `log` for log10 values.

    The values are in the rows named `rows`. Empty where marks have tooltips of their own.
    """
    wide: bool = True
    """Whether it wants the whole width of a page."""
    key: tuple[tuple[str, str, tuple[int, ...]], ...] = ()
    """Name, colour and dashes of every line, for a page that writes its own legend."""


@dataclass(frozen=True)
class Chart:
    """A picture that every report can be asked for; the table `CHARTS` lists them in the order of a page."""

    title: str
    teaches: str
    """How to read it, in two or three sentences."""
    needs: str
    """What a report must hold for it, said where there is nothing to draw."""
    draw: Callable[[Report], list[Panel]]
    """Its panels; none where the report holds nothing for it."""
    tell: Callable[[Report], str]
    """What it shows, in words: the alternative text."""


AXES = {"lag": "lag (steps back)", "step": "step"}
NOTHING = (-1.0, 0.0)
"""The vertical axis where no value has a place on it."""


def lines(
    rows: list[Row],
    names: list[str],
    title: str,
    *,
    data: Data | None = None,
    x: str = "step",
    log: bool = True,
    domain: tuple[float, float] | None = None,
    before: list[alt.Chart] | None = None,
    after: list[alt.Chart] | None = None,
) -> list[Panel]:
    """A panel with a line per name; none without rows.

    Args:
        rows: from `thinned`.
        names: the values of `by`, in the order of their colours.
        title: of the vertical axis.
        data: the rows of the layers under and over the lines.
        x: `lag` or `step`.
        log: whether `y` holds log10 values.
        domain: of the vertical axis; None: what the values need.
        before: layers under the lines.
        after: layers over them.
    """
    if not rows:
        return []
    own, shown = Data(), {row["by"] for row in rows}
    base = own.chart(rows)
    across = alt.X(
        "x:Q", axis=alt.Axis(title=AXES[x], tickMinStep=1, format="d"), scale=alt.Scale(nice=False, padding=4)
    )
    axis = look.log_axis(title, finite_in(rows)) if log else alt.Axis(title=title)
    if not finite_in(rows):
        domain = domain or NOTHING
    scale = alt.Scale(domain=list(domain)) if domain else alt.Scale(zero=False)
    drawn = base.mark_line(strokeWidth=2, clip=True).encode(
        x=across, y=alt.Y("y:Q", axis=axis, scale=scale), **look.by_model(names, shown)
    )
    marks = look.odd_marks(base, across, odd_in(rows))
    picture = alt.layer(*(before or []), drawn, *marks, *(after or [])).properties(height=look.HEIGHT)
    reads: dict[str, Any] = {"rows": own.first, "x": x, "y": "y", "by": "by", "log": log}
    return [Panel(picture, Data({**own, **(data or {})}), reads=reads, key=look.key(names, shown))]
