"""Influence by lag, and what each token of a text still means to the newest output."""

from __future__ import annotations

import math
from typing import Any

import altair as alt

from gradscope.charts import chart, look
from gradscope.charts.chart import Chart, Data, Panel, lines
from gradscope.charts.look import by_model
from gradscope.profile import Profile
from gradscope.records import ModelResult, Report
from gradscope.renderers import numbers, report_wording

REACH = -2.0
"""log10 of the part of I(1) below which a lag is out of reach."""


def draw_profile(report: Report) -> list[Panel]:
    """The influence profile: how much of the signal is left, by how far back it has to go.

    log10 I(k) / I(1) over the lag k, a line per model, with band, reach and needed lag.
    """
    names = chart.names(report)
    found = [row for m in report.models for row in chart.thinned(range(10**9), chart.profile(m), m.name)]
    if not found:
        return []
    bands = [row for model in report.models for row in chart.band(model)]
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
    ends = [_end(model.name, model.summary.reach, chart.profile(model)) for model in report.models]
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


def _end(name: str, reach: int | None, profile: list[float | None]) -> chart.Row | None:
    value = profile[reach] if reach is not None and 0 < reach < len(profile) else None
    if value is None or not abs(value) < float("inf"):
        return None
    return {"x": reach, "y": chart.rounded(value), "by": name, "said": f"{name} reaches {reach} lags"}


def tell_profile(report: Report) -> str:
    """Of each model, what is left at the oldest lag and how far it reaches."""
    return "Influence on the loss by lag. " + " ".join(map(_profile_told, report.models))


def _profile_told(model: ModelResult) -> str:
    known = [(lag, value) for lag, value in enumerate(chart.profile(model)) if value is not None]
    if not known:
        return f"{model.name}: not measured."
    lag, value = known[-1]
    reach, total = model.summary.reach, report_wording.lags(model)
    reaches = "" if reach is None else f", reach {reach} of {total} lags" if total is not None else f", reach {reach}"
    return f"{model.name}: {numbers.scientific(value)} of lag 1 is left at lag {lag}{reaches}."


PROFILE = Chart(
    title="How much of the signal is left, by lag",
    teaches=(
        "Each point is the gradient that the newest output sends to the input so many steps before, beside that of lag "
        "1. On this logarithmic axis a straight line down is exponential vanishing: every step multiplies by the same "
        "factor. Lags under the 1 % line are hardly learned from; the dot is where a model's reach ends; the shade "
        "spans all sequences."
    ),
    needs="an influence profile",
    draw=draw_profile,
    tell=tell_profile,
)


MOST_TOKENS = 60
DEEPEST_SHADE = -6.0
"""log10 of the influence, beside the strongest, under which a bar has no length."""


def draw_words(report: Report) -> list[Panel]:
    """What each token of a text still means to the newest output.

    A row per model, a cell per token: log10 of its influence beside the strongest of all tokens.
    """
    held = [model for model in report.models if model.series.token and any(_values(model))]
    if not held:
        return []
    found = [row for model in held for row in _words_rows(model)]
    order = list(dict.fromkeys(row["key"] for row in found))
    legend = alt.Legend(
        title="beside the strongest", orient="bottom", labelExpr=f"datum.value == 0 ? '1' : '10' + {look.POWER}"
    )
    x = alt.X(
        "key:N",
        sort=order,
        axis=alt.Axis(title=None, labelAngle=-50, labelExpr=look.AFTER_NUMBER, labelLimit=110, labelOverlap=False),
    )
    y = alt.Y("by:N", sort=[model.name for model in held], axis=alt.Axis(title=None, labelLimit=150))
    scale = alt.Scale(scheme=look.SHADES, domain=[DEEPEST_SHADE, 0.0], clamp=True)
    cells = (data := Data()).chart(found).mark_rect(stroke="white", strokeOpacity=0.25)
    tips = [
        alt.Tooltip("word:N", title="token"),
        alt.Tooltip("lag:Q"),
        alt.Tooltip("by:N", title="model"),
        alt.Tooltip("said:N", title="beside the strongest"),
    ]
    picture = cells.encode(x=x, y=y, color=alt.Color("v:Q", scale=scale, legend=legend), tooltip=tips)
    return [Panel(picture.properties(height=max(60, 34 * len(held))), data)]


def _values(model: ModelResult) -> list[float | None]:
    """log10 influence by lag beside the largest, newest first, lag 0 left out."""
    found = Profile.of(model).values[1:]
    top = max((value for value in found if value is not None and math.isfinite(value)), default=None)
    return [None if value is None or top is None else value - top for value in found]


def _words_rows(model: ModelResult) -> list[chart.Row]:
    tokens = model.series.token or ()
    profile, made = Profile.of(model), list[chart.Row]()
    for lag, value in enumerate(_values(model)[: MOST_TOKENS - 1], 1):
        step = profile.step_of(lag)
        if value is None or not 1 <= step <= len(tokens):
            continue
        word = tokens[step - 1]
        shown = -99.0 if not math.isfinite(value) else max(value, -99.0)
        made.append(
            {
                "key": f"{step}\u2009{word}",
                "word": word,
                "lag": lag,
                "by": model.name,
                "v": chart.rounded(shown),
                "said": numbers.scientific(value),
            }
        )
    return made[::-1]


def tell_words(report: Report) -> str:
    """The strongest token of each model."""
    said = []
    for model in report.models:
        if model.series.token and (found := _words_rows(model)):
            best = max(found, key=lambda row: row["v"])
            said.append(f"{model.name}: '{best['word']}', {best['lag']} steps back, counts most.")
    return " ".join(["Influence of every earlier token on the newest output.", *said])


WORDS = Chart(
    title="Which earlier words the last one still hears",
    teaches=(
        "Bright: the output at the last token depends on this word as much as on any. Dark: a millionth of that or "
        "less, so that training cannot use it. Words stand in reading order, a row for each model."
    ),
    needs="text",
    draw=draw_words,
    tell=tell_words,
)
