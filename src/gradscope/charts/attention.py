"""Attention weights: where each token looks, by layer and head."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from gradscope.charts import look, rows
from gradscope.charts.chart import Chart, Data, Panel
from gradscope.records import ModelResult, Report

MOST_TOKENS = 48
MOST_PANELS = 8
UNTRAINED = {True: "", False: "untrained", None: "weights as given"}


def draw(report: Report) -> list[Panel]:
    """A panel per model, layer and head: rows look, columns are looked at."""
    panels = []
    for model in report.models:
        for layer, heads in enumerate(model.attention.weights if model.attention else ()):
            for head, weights in enumerate(heads):
                panels.append(_panel(model, layer, head, weights))
    return [panel for panel in panels if panel][:MOST_PANELS]


def _panel(model: ModelResult, layer: int, head: int, weights: Sequence[Sequence[float]]) -> Panel | None:
    assert model.attention is not None
    first = max(0, len(weights) - MOST_TOKENS)
    tokens = model.attention.token or model.series.token or ()
    names = [_name(step, tokens) for step in range(first, len(weights))]
    found = [
        {"to": names[i - first], "from": names[j - first], "v": rows.rounded(weights[i][j])}
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


def _name(step: int, tokens: Sequence[str]) -> str:
    """Number and token, told apart though words repeat; only the token is shown on the axis."""
    return f"{step + 1}\u2009{tokens[step] if step < len(tokens) else step + 1}"


def tell(report: Report) -> str:
    """Where the last token looks most."""
    said = []
    for model in report.models:
        for layer, heads in enumerate(model.attention.weights if model.attention else ()):
            for head, weights in enumerate(heads):
                if weights and weights[-1]:
                    most = weights[-1].index(max(weights[-1])) + 1
                    said.append(f"{model.name}, layer {layer}, head {head}: the last token looks most at step {most}.")
    return " ".join(["Attention weights.", *said[:MOST_PANELS]])


CHART = Chart(
    title="Where each token looks",
    teaches=(
        "Each row is a token that looks, each column one that is looked at; a row's weights add up to 1. A bright cell "
        "far to the left is one step back in the gradient, however many tokens lie between. Untrained weights show the "
        "wiring, and nothing about the language."
    ),
    needs="attention weights, which only models with attention have",
    draw=draw,
    tell=tell,
)
