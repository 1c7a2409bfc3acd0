"""A training run in pictures: reach, share and loss over its steps, and the influence of every lag at each of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import altair as alt

from gradscope.charts import chart, look
from gradscope.charts.chart import Data, Panel
from gradscope.records import Number
from gradscope.renderers import numbers
from gradscope.trajectory import Point, Trajectory, leading

MOST_POINTS = 120
"""Points of a run that the map of lags shows."""
FLOOR_DECADE = -12.0
"""Influence (log10, of that at lag 1) below which the map is of one shade."""


@dataclass(frozen=True)
class FlowChart:
    """A picture of a trajectory."""

    name: str
    title: str
    teaches: str
    draw: Callable[[Trajectory], Panel | None]
    """None where the run holds nothing for it."""
    tell: Callable[[Trajectory], str]


def _line(trajectory: Trajectory, value: Callable[[Point], Number], title: str, *, log: bool = False) -> Panel | None:
    points = [point for point in leading(trajectory) if value(point) is not None]
    if not points:
        return None
    found = chart.thinned([point.step for point in points], [value(point) for point in points], title, log=log)
    base = (data := Data()).chart(found)
    axis = look.log_axis(title, chart.finite_in(found)) if log else alt.Axis(title=title)
    x = alt.X("x:Q", axis=alt.Axis(title="step of training", tickMinStep=1, format="d"), scale=alt.Scale(nice=False))
    y = alt.Y("y:Q", axis=axis, scale=alt.Scale(zero=False))
    tips = [alt.Tooltip("x:Q", title="step"), alt.Tooltip("y:Q", title=f"log10 {title}" if log else title)]
    drawn = base.mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=26)).encode(x=x, y=y, tooltip=tips)
    marks = look.odd_marks(base, x, chart.odd_in(found))
    return Panel(alt.layer(drawn, *marks, *_needed(trajectory, title, data)).properties(height=look.HEIGHT), data)


def _needed(trajectory: Trajectory, title: str, data: Data) -> list[alt.Chart]:
    """A rule at the needed lag, of the picture of the reach."""
    if title != REACH or trajectory.head.needed_lag is None:
        return []
    return [data.chart([{"y": trajectory.head.needed_lag}]).mark_rule(strokeDash=[4, 4]).encode(y="y:Q")]


def _map(trajectory: Trajectory) -> Panel | None:
    """Influence of every lag, of that at lag 1, by step of training."""
    points = [point for point in leading(trajectory) if len(point.lags) > 1]
    points = points[:: max(1, math.ceil(len(points) / MOST_POINTS))]
    found = [row for point in points for row in _column(point)]
    if not found:
        return None
    legend = alt.Legend(title=None, labelExpr=f"datum.value == 0 ? '1' : '10' + {look.POWER}", gradientLength=180)
    scale = alt.Scale(scheme=look.SHADES, domain=[FLOOR_DECADE, 0.0], clamp=True)
    tips = [alt.Tooltip("step:O", title="step"), alt.Tooltip("lag:O", title="lag"), alt.Tooltip("said:N", title="I(k)")]
    base = (data := Data()).chart(found)
    picture = base.mark_rect(stroke=None).encode(
        x=alt.X("step:O", axis=alt.Axis(title="step of training", labelOverlap=True)),
        y=alt.Y("lag:O", sort="descending", axis=alt.Axis(title="lag (steps back)", labelOverlap=True)),
        color=alt.condition("isValid(datum.v)", alt.Color("v:Q", scale=scale, legend=legend), alt.value("#D55E00")),
        tooltip=tips,
    )
    return Panel(picture.properties(height=300), data)


def _column(point: Point) -> list[dict[str, Any]]:
    known = dict(zip(point.lags, point.log10_influence, strict=False))
    first = known.get(1)
    if first is None or not math.isfinite(first):
        return []
    found = []
    for lag, value in known.items():
        if lag and value is not None:
            own = chart.rounded(max(value - first, 2 * FLOOR_DECADE)) if value < math.inf else None
            found.append({"step": point.step, "lag": lag, "v": own, "said": numbers.scientific(value - first)})
    return found


def _ends(value: Callable[[Point], str]) -> Callable[[Trajectory], str]:
    def tell(trajectory: Trajectory) -> str:
        points = leading(trajectory)
        if not points:
            return "Nothing was measured."
        first, last = points[0], points[-1]
        return f"{value(first)} at step {first.step}, {value(last)} at step {last.step}."

    return tell


def _share(point: Point) -> str:
    return numbers.MISSING if point.gradient_share is None else numbers.share(point.gradient_share)


REACH = "reach, in lags"
TRAINING_RUN_CHARTS = (
    FlowChart(
        "reach",
        "How far back it learns, over training",
        "The largest lag that keeps 1 % of the influence of lag 1, at each step that was measured; the dashed line is "
        "the lag that is needed. Where the line falls below it, older steps have stopped teaching anything.",
        lambda trajectory: _line(trajectory, lambda point: point.reach, REACH),
        _ends(lambda point: f"Reach {numbers.plain(point.reach)}"),
    ),
    FlowChart(
        "share",
        "What the needed lag gets of the gradient, over training",
        "The part of the input gradient that falls on the needed lag, on a logarithmic axis. It can open long before "
        "the loss falls: that is what learning a long lag looks like from inside.",
        lambda trajectory: _line(trajectory, lambda point: point.gradient_share, "gradient share", log=True),
        _ends(lambda point: f"Share {_share(point)}"),
    ),
    FlowChart(
        "lags",
        "Every lag, at every step of training",
        "Colour is the influence of an input that lies so many steps back (up), of that of the newest lagged one, at "
        "each measured step of training (across). Dark from some lag upwards: nothing older is learned from.",
        _map,
        lambda trajectory: "Influence by lag and step of training, the same numbers as in the data.",
    ),
    FlowChart(
        "loss",
        "The loss, over training",
        "As it was told at the measured steps.",
        lambda trajectory: _line(trajectory, lambda point: point.loss, "loss"),
        _ends(lambda point: f"Loss {numbers.plain(point.loss)}"),
    ),
)
"""In the order of a page."""
