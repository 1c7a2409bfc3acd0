"""What a training step costs as the sequence grows."""

from __future__ import annotations

import math

import altair as alt

from gradscope.charts import look, rows
from gradscope.charts.chart import Chart, Data, Panel
from gradscope.records import ModelResult, Report
from gradscope.renderers.text import numbers

COUNTS = {"path_length": "path from first input to last output", "sequential_steps": "operations one after the other"}


def draw(report: Report) -> list[Panel]:
    """Time of forward and backward pass by length, and the counts of operations by length."""
    timed = [row for model in report.models for row in _timed(report, model)]
    panels = [_panel(timed, report, "milliseconds, forward and backward", "time of a training step")] if timed else []
    for name, said in COUNTS.items():
        counted = [row for model in report.models for row in _counted(model, name)]
        panels += [_panel(counted, report, "operations", said)] if counted else []
    return panels


def _panel(found: list[rows.Row], report: Report, title: str, heading: str) -> Panel:
    lengths = sorted({row["x"] for row in found})
    names, shown = rows.names(report), {row["by"] for row in found}
    x = alt.X(
        "x:Q",
        scale=alt.Scale(type="log", nice=False, padding=10),
        axis=alt.Axis(title="steps T", values=lengths[:8], format="d"),
    )
    y = alt.Y("y:Q", scale=alt.Scale(type="log"), axis=alt.Axis(title=title, format="~g", tickCount=4))
    base = (data := Data()).chart(found)
    tips = [alt.Tooltip("by:N", title="model"), alt.Tooltip("x:Q", title="T"), alt.Tooltip("y:Q", title=heading)]
    encodings = look.by_model(names, shown)
    drawn = base.mark_line(strokeWidth=2).encode(x=x, y=y, **encodings)
    dots = base.mark_point(filled=True, size=50).encode(x=x, y=y, color=encodings["color"], tooltip=tips)
    return Panel(alt.layer(drawn, dots).properties(height=220), data, heading, wide=False, key=look.key(names, shown))


def _timed(report: Report, model: ModelResult) -> list[rows.Row]:
    entry = report.timing.training_step.get(model.name) or {}
    pairs = zip(entry.get("length") or (), entry.get("seconds") or (), strict=False)
    known = [(length, numbers.as_number(seconds)) for length, seconds in pairs]
    return [
        {"x": length, "y": rows.rounded(1000 * seconds), "by": model.name}
        for length, seconds in known
        if seconds is not None and math.isfinite(seconds) and seconds > 0
    ]


def _counted(model: ModelResult, name: str) -> list[rows.Row]:
    growth = (model.summary.growth or {}).get(name)
    pairs = zip(growth.length, growth.count, strict=False) if growth else ()
    return [{"x": length, "y": count, "by": model.name} for length, count in pairs if count > 0]


def tell(report: Report) -> str:
    """How the path grows with the length, by model."""
    said = []
    for model in report.models:
        for name, words in COUNTS.items():
            growth = (model.summary.growth or {}).get(name)
            if growth and growth.count:
                said.append(f"{model.name}, {words}: {growth.count[0]} at T={growth.length[0]}, {growth.order}.")
    return " ".join(["Costs by length.", *said])


CHART = Chart(
    title="What a training step costs",
    teaches=(
        "Both axes are logarithmic: a line that climbs as fast as it goes right is linear growth, a flat one is "
        "constant. In a recurrence the path between two steps, and the operations that must wait for each other, grow "
        "with the length. Attention joins any two steps directly, at work that grows as the square."
    ),
    needs="counts and times, which gradscope compare measures",
    draw=draw,
    tell=tell,
)
