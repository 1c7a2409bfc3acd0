"""How many lags the gradient survives in each number type."""

from __future__ import annotations

import altair as alt

from gradscope.charts import look, rows
from gradscope.charts.chart import Chart, Data, Panel
from gradscope.profile import Profile
from gradscope.records import ModelResult, Report
from gradscope.renderers.text import numbers

TYPES = ("float32", "bfloat16", "float16")


def draw(report: Report) -> list[Panel]:
    """A bar per model and type, from lag 0 to its horizon; a rule at the needed lag."""
    found = [row for model in report.models for row in _rows(model)]
    if not found:
        return []
    kinds = list(dict.fromkeys(row["type"] for row in found))
    names = list(dict.fromkeys(row["by"] for row in found))
    base = (data := Data()).chart(found)
    y = alt.Y("by:N", sort=names, axis=alt.Axis(title=None, labelLimit=150))
    x = alt.X("lag:Q", axis=alt.Axis(title="lags that survive", tickMinStep=1, format="d"), scale=alt.Scale(zero=True))
    colour = alt.Color(
        "type:N",
        scale=alt.Scale(domain=kinds, range=list(look.COLOURS[: len(kinds)])),
        legend=alt.Legend(title=None, orient="top"),
    )
    offset = alt.YOffset("type:N", sort=kinds)
    tips = [alt.Tooltip("by:N", title="model"), alt.Tooltip("type:N"), alt.Tooltip("said:N", title="horizon")]
    bars = base.mark_bar().encode(x=x, y=y, yOffset=offset, color=colour, tooltip=tips)
    said = base.mark_text(align="left", dx=4, baseline="middle").encode(x=x, y=y, yOffset=offset, text="said:N")
    picture = alt.layer(bars, said).properties(height=max(80, 24 * len(found)))
    return [Panel(picture, data)]


def _rows(model: ModelResult) -> list[rows.Row]:
    found = []
    last = max(1, Profile.of(model).longest)
    for name, horizon in (model.summary.precision_horizon or {}).items():
        lag = numbers.as_number(horizon.get("lag")) if isinstance(horizon, dict) else numbers.as_number(horizon)
        known = lag is not None and lag == lag and abs(lag) < 1e18
        said = f"to lag {lag:.0f}" if known and lag is not None else "all lags"
        found.append({"by": model.name, "type": str(name), "lag": lag if known else last, "said": said})
    return found


def tell(report: Report) -> str:
    """Every horizon in words."""
    said = [f"{row['by']}, {row['type']}: {row['said']}." for model in report.models for row in _rows(model)]
    return " ".join(["Lags over which a gradient survives in each number type.", *said])


CHART = Chart(
    title="How far each number type carries the gradient",
    teaches=(
        "Training runs in float32 or less. A gradient that falls under the smallest number of its type is zero, and a "
        "step whose part in dL/dW falls under the type's rounding adds nothing: beyond these lags, what was measured "
        "here in float64 is lost in practice."
    ),
    needs="precision horizons",
    draw=draw,
    tell=tell,
)
