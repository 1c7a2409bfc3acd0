"""What each token of a text still means to the newest output."""

from __future__ import annotations

import math

import altair as alt

from gradscope.charts import look, rows
from gradscope.charts.chart import Chart, Data, Panel
from gradscope.profile import Profile
from gradscope.records import ModelResult, Report
from gradscope.renderers.text import numbers

MOST = 60
DEEPEST = -6.0
"""log10 of the influence, beside the strongest, under which a bar has no length."""


def draw(report: Report) -> list[Panel]:
    """A row per model, a cell per token: log10 of its influence beside the strongest of all tokens."""
    held = [model for model in report.models if model.series.token and any(_values(model))]
    if not held:
        return []
    found = [row for model in held for row in _rows(model)]
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
    scale = alt.Scale(scheme=look.SHADES, domain=[DEEPEST, 0.0], clamp=True)
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


def _rows(model: ModelResult) -> list[rows.Row]:
    tokens = model.series.token or ()
    profile, made = Profile.of(model), list[rows.Row]()
    for lag, value in enumerate(_values(model)[: MOST - 1], 1):
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
                "v": rows.rounded(shown),
                "said": numbers.scientific(value),
            }
        )
    return made[::-1]


def tell(report: Report) -> str:
    """The strongest token of each model."""
    said = []
    for model in report.models:
        if model.series.token and (found := _rows(model)):
            best = max(found, key=lambda row: row["v"])
            said.append(f"{model.name}: '{best['word']}', {best['lag']} steps back, counts most.")
    return " ".join(["Influence of every earlier token on the newest output.", *said])


CHART = Chart(
    title="Which earlier words the last one still hears",
    teaches=(
        "Bright: the output at the last token depends on this word as much as on any. Dark: a millionth of that or "
        "less, so that training cannot use it. Words stand in reading order, a row for each model."
    ),
    needs="text",
    draw=draw,
    tell=tell,
)
