"""Lyapunov exponents beside the finite-time ones."""

from __future__ import annotations

import math
from typing import Any

import altair as alt

from gradscope.charts import look, rows
from gradscope.charts.chart import Chart, Data, Panel
from gradscope.records import ModelResult, Report
from gradscope.renderers.text import numbers

FEW = 12
KINDS = {"lyapunov": "Lyapunov, along the trajectory", "finite_time_exponents": "finite-time, of the product"}


def draw(report: Report) -> list[Panel]:
    """Exponents by rank; of several models the Lyapunov ones, of a single one both kinds."""
    alone = len(report.models) == 1
    kinds = list(KINDS) if alone else ["lyapunov"]
    found = [
        row
        for model in report.models
        for kind in kinds
        for row in _rows(model, kind, KINDS[kind] if alone else model.name)
    ]
    if not found:
        return []
    shown = list(dict.fromkeys(row["by"] for row in found))
    names = shown if alone else rows.names(report)
    base = (data := Data()).chart(found)
    x = alt.X("x:Q", axis=alt.Axis(title="rank", format="d", **_ticks(found)), scale=alt.Scale(nice=False, padding=12))
    y = alt.Y("y:Q", axis=alt.Axis(title="nats per step"))
    tips = [alt.Tooltip("by:N", title=" "), alt.Tooltip("x:Q", title="rank"), alt.Tooltip("y:Q", title="nats per step")]
    zero = data.chart([{"y": 0}]).mark_rule(opacity=0.6).encode(y="y:Q")
    drawn = base.mark_line(strokeWidth=1.5).encode(x=x, y=y, **look.by_model(names, shown))
    dots = base.mark_point(filled=True, size=34).encode(
        x=x, y=y, color=look.by_model(names, shown)["color"], tooltip=tips
    )
    return [Panel(alt.layer(zero, drawn, dots).properties(height=look.HEIGHT), data, key=look.key(names, shown))]


def _ticks(found: list[rows.Row]) -> dict[str, Any]:
    """Every rank where there are few: a short axis would invent halves."""
    last = max(row["x"] for row in found)
    return {"values": list(range(1, last + 1))} if last <= FEW else {}


def _rows(model: ModelResult, kind: str, by: str) -> list[rows.Row]:
    values = getattr(model.summary, kind) or ()
    return [
        {"x": rank, "y": rows.rounded(value), "by": by}
        for rank, value in enumerate(values, 1)
        if value is not None and math.isfinite(value)
    ]


def tell(report: Report) -> str:
    """The leading exponent of every model."""
    said = [
        f"{model.name}: the leading one is {numbers.plain(model.summary.lyapunov[0])} nats per step."
        for model in report.models
        if model.summary.lyapunov
    ]
    return " ".join(["Exponents by rank.", *said])


CHART = Chart(
    title="Growth rates of small changes",
    teaches=(
        "Each exponent is the mean rate at which a small change of the state along one direction grows (above 0) or "
        "fades (below), in nats per step. Near 0 is where memory lives; a leading one well above 0 is chaos."
    ),
    needs="Lyapunov exponents",
    draw=draw,
    tell=tell,
)
