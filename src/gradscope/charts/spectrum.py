"""Singular values of the product of the last Jacobians, by how many are multiplied."""

from __future__ import annotations

import math

import altair as alt

from gradscope.charts import look, rows
from gradscope.charts.chart import Chart, Data, Panel
from gradscope.records import ModelResult, Report
from gradscope.renderers.text import numbers

MOST = 24
"""Singular values drawn; of more, these evenly by rank, the first and last among them."""
DEEPEST = 60.0
"""Decades under the largest that are drawn: what lies deeper says no more."""


def draw(report: Report) -> list[Panel]:
    """A panel per model: log10 of the singular values over the lag, hollow where float64 cannot resolve them."""
    return [panel for model in report.models if (panel := _panel(model, len(report.models) > 1))]


def _panel(model: ModelResult, titled: bool) -> Panel | None:
    found = _rows(model)
    if not found:
        return None
    base = (data := Data()).chart(found)
    x = alt.X(
        "x:Q", axis=alt.Axis(title="Jacobians multiplied (lag)", format="~s"), scale=alt.Scale(type="log", nice=False)
    )
    y = alt.Y("y:Q", axis=look.log_axis("singular value", [row["y"] for row in found]))
    colour = alt.Color(
        "rank:Q", scale=alt.Scale(scheme=look.SHADES), legend=alt.Legend(title="rank", format="d", tickMinStep=1)
    )
    tips = [alt.Tooltip("x:Q", title="lag"), alt.Tooltip("rank:Q"), alt.Tooltip("said:N", title="singular value")]
    drawn = base.mark_line(strokeWidth=1.5, opacity=0.9).encode(x=x, y=y, color=colour, detail="rank:N")
    dots = base.mark_point(size=26, opacity=1).encode(
        x=x,
        y=y,
        color=colour,
        tooltip=tips,
        fill=alt.condition("datum.sure", alt.Fill("rank:Q", legend=None), alt.value("transparent")),
    )
    return Panel(
        alt.layer(drawn, dots).properties(height=look.HEIGHT), data, model.name if titled else "", wide=not titled
    )


def _rows(model: ModelResult) -> list[rows.Row]:
    spectra = model.singular_values
    if spectra is None:
        return []
    most = max((len(values) for values in spectra.ln_sigma), default=0)
    ranks = sorted({round(i * (most - 1) / max(1, min(MOST, most) - 1)) for i in range(min(MOST, most))})
    found = []
    for lag, values, sure in zip(spectra.lag, spectra.ln_sigma, spectra.resolved, strict=False):
        top = values[0] if values and values[0] is not None else 0.0
        for rank in ranks:
            value = values[rank] if rank < len(values) else None
            if value is None or not math.isfinite(value) or value - top < -DEEPEST * math.log(10):
                continue
            log10 = value / math.log(10)
            said = numbers.scientific(log10)
            found.append({"x": lag, "y": rows.rounded(log10), "rank": rank + 1, "sure": bool(sure[rank]), "said": said})
    return found


def tell(report: Report) -> str:
    """How the largest singular value moves, and how many directions are left."""
    said = []
    for model in report.models:
        spectra = model.singular_values
        if spectra is None or not spectra.lag or not spectra.ln_sigma[-1]:
            continue
        largest = spectra.ln_sigma[-1][0]
        log10 = None if largest is None else largest / math.log(10)
        left = model.summary.directions
        ways = "" if left is None else f", {left} of {model.size} directions left"
        said.append(f"{model.name}: the largest is {numbers.scientific(log10)} after {spectra.lag[-1]} steps{ways}.")
    return " ".join(["Singular values of products of Jacobians by lag.", *said])


CHART = Chart(
    title="What is left of a state's directions",
    teaches=(
        "A product of Jacobians stretches some directions of the state and shrinks others; each line is one singular "
        "value of the product of the last so many. Where all fall, the past is lost. Where one stays up and the rest "
        "fall, the state still hears that something happened, but no longer what. Hollow: beyond what float64 tells."
    ),
    needs="singular values of products",
    draw=draw,
    tell=tell,
)
