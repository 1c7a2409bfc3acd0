"""Pairs of steps: what a change of one state does to another, and where attention looks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from gradscope.charts import chart, look
from gradscope.charts.chart import Chart, Data, Panel
from gradscope.records import ModelResult, Report
from gradscope.renderers import numbers


def draw_heatmap(report: Report) -> list[Panel]:
    """Every pair of steps: what a change of one state does to another.

    A panel per model: log10 ‖ds_t/ds_u‖, from step u across, to step t down; all panels on one scale.
    """
    found = {model.name: _heatmap_rows(model) for model in report.models}
    known = [row["v"] for each in found.values() for row in each if row["v"] is not None]
    if not known:
        return []
    low, high = max(min(known), -16.0), max(max(known), 0.0)
    titled = len(report.models) > 1
    return [_heatmap_panel(each, (low, high), name if titled else "") for name, each in found.items() if each]


def _heatmap_panel(found: list[chart.Row], domain: tuple[float, float], title: str) -> Panel:
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


def _heatmap_rows(model: ModelResult) -> list[chart.Row]:
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
                    "v": chart.rounded(value) if math.isfinite(value) else -400.0 if value == -math.inf else None,
                    "said": numbers.scientific(value),
                    "from": str(edges[j]),
                    "to": str(edges[i + 1]),
                }
            )
    return found


def tell_heatmap(report: Report) -> str:
    """The value in the far corner of every model's map."""
    said = []
    for model in report.models:
        if found := _heatmap_rows(model):
            far = max(found, key=lambda row: row["t1"] - row["u0"])
            said.append(f"{model.name}: {far['said']} from step {far['from']} to step {far['to']}.")
    return " ".join(["Norm of the Jacobian between every two steps.", *said])


HEATMAP = Chart(
    title="What one step still means to another",
    teaches=(
        "Colour is ‖ds_t/ds_u‖, the most that a small change of the state at step u (across) can change the state at "
        "step t (down); the diagonal is the step itself. A dark corner at the lower left means that the end of the "
        "sequence no longer hears its beginning; bright stretches are remembered well."
    ),
    needs="norms over pairs of steps (a recurrence whose Jacobians were measured)",
    draw=draw_heatmap,
    tell=tell_heatmap,
)


MOST_ATTENDED = 48
MOST_PANELS = 8
UNTRAINED = {True: "", False: "untrained", None: "weights as given"}


def draw_attention(report: Report) -> list[Panel]:
    """Attention weights: where each token looks, by layer and head.

    A panel per model, layer and head: rows look, columns are looked at.
    """
    panels = []
    for model in report.models:
        for layer, heads in enumerate(model.attention.weights if model.attention else ()):
            for head, weights in enumerate(heads):
                panels.append(_attention_panel(model, layer, head, weights))
    return [panel for panel in panels if panel][:MOST_PANELS]


def _attention_panel(model: ModelResult, layer: int, head: int, weights: Sequence[Sequence[float]]) -> Panel | None:
    assert model.attention is not None
    first = max(0, len(weights) - MOST_ATTENDED)
    tokens = model.attention.token or model.series.token or ()
    names = [_attention_name(step, tokens) for step in range(first, len(weights))]
    found = [
        {"to": names[i - first], "from": names[j - first], "v": chart.rounded(weights[i][j])}
        for i in range(first, len(weights))
        for j in range(first, len(weights[i]))
        if weights[i][j] > 0
    ]
    if not found:
        return None
    ticks = alt.Axis(labelAngle=-60, title="looks at", labelLimit=90, labelExpr=look.AFTER_NUMBER)
    down = alt.Axis(title=None, labelLimit=90, labelExpr=look.AFTER_NUMBER)
    picture = (
        (data := Data())
        .chart(found)
        .mark_rect()
        .encode(
            x=alt.X("from:N", sort=names, scale=alt.Scale(domain=names), axis=ticks),
            y=alt.Y("to:N", sort=names, scale=alt.Scale(domain=names), axis=down),
            color=alt.Color("v:Q", scale=alt.Scale(scheme=look.SHADES, domain=[0, 1]), legend=alt.Legend(title=None)),
            tooltip=[
                alt.Tooltip("to:N", title="token"),
                alt.Tooltip("from:N", title="looks at"),
                alt.Tooltip("v:Q", title="weight"),
            ],
        )
        .properties(height=340)
    )
    said = [model.name, f"layer {layer}", f"head {head}", UNTRAINED[model.loaded.trained]]
    return Panel(picture, data, ", ".join(part for part in said if part), wide=False)


def _attention_name(step: int, tokens: Sequence[str]) -> str:
    """Number and token, told apart though words repeat; only the token is shown on the axis."""
    return f"{step + 1}\u2009{tokens[step] if step < len(tokens) else step + 1}"


def tell_attention(report: Report) -> str:
    """Where the last token looks most."""
    said = []
    for model in report.models:
        for layer, heads in enumerate(model.attention.weights if model.attention else ()):
            for head, weights in enumerate(heads):
                if weights and weights[-1]:
                    most = weights[-1].index(max(weights[-1])) + 1
                    said.append(f"{model.name}, layer {layer}, head {head}: the last token looks most at step {most}.")
    return " ".join(["Attention weights.", *said[:MOST_PANELS]])


ATTENTION = Chart(
    title="Where each token looks",
    teaches=(
        "Each row is a token that looks, each column one that is looked at; a row's weights add up to 1. A bright cell "
        "far to the left is one step back in the gradient, however many tokens lie between. Untrained weights show the "
        "wiring, and nothing about the language."
    ),
    needs="attention weights, which only models with attention have",
    draw=draw_attention,
    tell=tell_attention,
)
