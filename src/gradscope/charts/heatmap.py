"""Every pair of steps: what a change of one state does to another."""

from __future__ import annotations

import math
from typing import Any

import altair as alt

from gradscope.charts import look, rows
from gradscope.charts.chart import Chart, Data, Panel
from gradscope.records import ModelResult, Report
from gradscope.renderers.text import numbers


def draw(report: Report) -> list[Panel]:
    """A panel per model: log10 ‖ds_t/ds_u‖, from step u across, to step t down; all panels on one scale."""
    found = {model.name: _rows(model) for model in report.models}
    known = [row["v"] for each in found.values() for row in each if row["v"] is not None]
    if not known:
        return []
    low, high = max(min(known), -16.0), max(max(known), 0.0)
    titled = len(report.models) > 1
    return [_panel(each, (low, high), name if titled else "") for name, each in found.items() if each]


def _panel(found: list[rows.Row], domain: tuple[float, float], title: str) -> Panel:
    def axis(name: str, said: str, **more: Any) -> dict[str, Any]:
        return {
            "axis": alt.Axis(title=said, tickMinStep=1, format="d", grid=False),
            "scale": alt.Scale(nice=False, zero=False, **more),
        }

    legend = alt.Legend(
        title=None, orient="right", labelExpr=f"datum.value == 0 ? '1' : '10' + {look.POWER}", gradientLength=180
    )
    tips = [
        alt.Tooltip("from:N", title="from step"),
        alt.Tooltip("to:N", title="to step"),
        alt.Tooltip("said:N", title="‖ds/ds‖"),
    ]
    scale = alt.Scale(scheme=look.SHADES, domain=list(domain), clamp=True)
    picture = (
        (data := Data())
        .chart(found)
        .mark_rect(stroke=None)
        .encode(
            x=alt.X("u0:Q", **axis("u0", "from step")),
            x2="u1:Q",
            y=alt.Y("t0:Q", **axis("t0", "to step", reverse=True)),
            y2="t1:Q",
            color=alt.condition("isValid(datum.v)", alt.Color("v:Q", scale=scale, legend=legend), alt.value("#D55E00")),
            tooltip=tips,
        )
        .properties(height=300)
    )
    return Panel(picture, data, title, wide=False)


def _rows(model: ModelResult) -> list[rows.Row]:
    pairs = model.step_pairs
    if not pairs:
        return []
    edges = [int(edge) for edge in pairs["step"]]
    found = []
    for i, row in enumerate(pairs["log10_norm"]):
        for j, given in enumerate(row):
            value = numbers.as_number(given)
            if j > i or value is None:
                continue
            found.append(
                {
                    "u0": edges[j],
                    "u1": edges[j + 1],
                    "t0": edges[i],
                    "t1": edges[i + 1],
                    "v": rows.rounded(value) if math.isfinite(value) else -400.0 if value == -math.inf else None,
                    "said": numbers.scientific(value),
                    "from": str(edges[j]),
                    "to": str(edges[i + 1]),
                }
            )
    return found


def tell(report: Report) -> str:
    """The value in the far corner of every model's map."""
    said = []
    for model in report.models:
        if found := _rows(model):
            far = max(found, key=lambda row: row["t1"] - row["u0"])
            said.append(f"{model.name}: {far['said']} from step {far['from']} to step {far['to']}.")
    return " ".join(["Norm of the Jacobian between every two steps.", *said])


CHART = Chart(
    title="What one step still means to another",
    teaches=(
        "Colour is ‖ds_t/ds_u‖, the most that a small change of the state at step u (across) can change the state at "
        "step t (down); the diagonal is the step itself. A dark corner at the lower left means that the end of the "
        "sequence no longer hears its beginning; bright stretches are remembered well."
    ),
    needs="norms over pairs of steps (a recurrence whose Jacobians were measured)",
    draw=draw,
    tell=tell,
)
