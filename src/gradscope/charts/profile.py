"""The influence profile: how much of the signal is left, by how far back it has to go."""

from __future__ import annotations

from typing import Any

import altair as alt

from gradscope.charts import rows
from gradscope.charts.chart import Chart, Data, Panel
from gradscope.charts.lines import lines
from gradscope.charts.look import by_model
from gradscope.records import ModelResult, Report
from gradscope.renderers.text import numbers, wording

REACH = -2.0
"""log10 of the part of I(1) below which a lag is out of reach."""


def draw(report: Report) -> list[Panel]:
    """log10 I(k) / I(1) over the lag k, a line per model, with band, reach and needed lag."""
    names = rows.names(report)
    found = [row for m in report.models for row in rows.thinned(range(10**9), rows.profile(m), m.name)]
    if not found:
        return []
    bands = [row for model in report.models for row in rows.band(model)]
    data = Data()
    colour = by_model(names, {row["by"] for row in found})["color"]
    under = [_bands(data.chart(bands), colour)] if bands else []
    return lines(
        found, names, "influence, lag 1 = 1", x="lag", data=data, before=under, after=_marks(report, data, colour)
    )


def _bands(base: alt.Chart, colour: alt.Color) -> Any:
    return base.mark_area(opacity=0.18, clip=True).encode(x="x:Q", y="low:Q", y2="high:Q", color=colour)


def _marks(report: Report, data: Data, colour: alt.Color) -> list[alt.Chart]:
    """The 1 % line, where each model's reach ends, and the needed lag where the user gave one."""
    rule = data.chart([{"y": REACH, "said": "1 %: reach ends"}])
    marks = [
        rule.mark_rule(strokeDash=[2, 3], opacity=0.6).encode(y="y:Q"),
        rule.mark_text(align="right", dx=-2, dy=9, opacity=0.8).encode(y="y:Q", x=alt.value("width"), text="said:N"),
    ]
    ends = [_end(model.name, model.summary.reach, rows.profile(model)) for model in report.models]
    if reached := [end for end in ends if end]:
        dots = data.chart(reached).mark_point(filled=True, size=80, opacity=1, clip=True)
        marks.append(dots.encode(x="x:Q", y="y:Q", color=colour, tooltip=alt.Tooltip("said:N", title="reach")))
    if report.run.needs_lag is not None:
        need = data.chart([{"x": report.run.needs_lag, "said": "needed lag"}])
        marks.append(need.mark_rule(strokeWidth=1.5).encode(x="x:Q"))
        marks.append(
            need.mark_text(align="right", dx=-5, baseline="top").encode(x="x:Q", y=alt.value(2), text="said:N")
        )
    return marks


def _end(name: str, reach: int | None, profile: list[float | None]) -> rows.Row | None:
    value = profile[reach] if reach is not None and 0 < reach < len(profile) else None
    if value is None or not abs(value) < float("inf"):
        return None
    return {"x": reach, "y": rows.rounded(value), "by": name, "said": f"{name} reaches {reach} lags"}


def tell(report: Report) -> str:
    """Of each model, what is left at the oldest lag and how far it reaches."""
    return "Influence on the loss by lag. " + " ".join(map(_told, report.models))


def _told(model: ModelResult) -> str:
    known = [(lag, value) for lag, value in enumerate(rows.profile(model)) if value is not None]
    if not known:
        return f"{model.name}: not measured."
    lag, value = known[-1]
    reach, total = model.summary.reach, wording.lags(model)
    reaches = "" if reach is None else f", reach {reach} of {total} lags" if total is not None else f", reach {reach}"
    return f"{model.name}: {numbers.scientific(value)} of lag 1 is left at lag {lag}{reaches}."


CHART = Chart(
    title="How much of the signal is left, by lag",
    teaches=(
        "Each point is the gradient that the newest output sends to the input so many steps before, beside that of lag "
        "1. On this logarithmic axis a straight line down is exponential vanishing: every step multiplies by the same "
        "factor. Lags under the 1 % line are hardly learned from; the dot is where a model's reach ends; the shade "
        "spans all sequences."
    ),
    needs="an influence profile",
    draw=draw,
    tell=tell,
)
