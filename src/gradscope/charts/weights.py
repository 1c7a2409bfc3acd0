"""Which steps the update of the recurrent weights comes from."""

from __future__ import annotations

import math

from gradscope.charts import rows
from gradscope.charts.chart import Chart, Panel
from gradscope.charts.lines import lines
from gradscope.records import ModelResult, Number, Report
from gradscope.renderers.text import numbers


def draw(report: Report) -> list[Panel]:
    """log10 of each step's share of the contributions to dL/dW, a line per model."""
    found = []
    for model in report.models:
        values = _logs(model)
        if values:
            steps = model.series.step or tuple(range(len(values)))
            found += rows.thinned(steps[len(steps) - len(values) :], values, model.name)
    return lines(found, rows.names(report), "share of dL/dW")


def _logs(model: ModelResult) -> list[Number]:
    exact = model.series.values.get("log10_weight_share")
    return list(exact) if exact else [_log(value) for value in model.series.values.get("weight_share", ())]


def _log(value: Number) -> Number:
    if value is None or math.isnan(value):
        return value
    return -math.inf if value <= 0 else math.log10(value)


def tell(report: Report) -> str:
    """Which part the newest tenth of the steps has."""
    said = []
    for model in report.models:
        values = [value for value in model.series.values.get("weight_share", ()) if value is not None]
        newest = values[-max(1, len(values) // 10) :]
        if values and all(map(math.isfinite, values)):
            said.append(f"{model.name}: the newest {len(newest)} steps make up {numbers.percent(sum(newest))}.")
    return " ".join(["Share of every step in the gradient of the recurrent weights.", *said])


CHART = Chart(
    title="Which steps change the weights",
    teaches=(
        "The same weights work at every step, and dL/dW is the sum of what each step contributes. A parameter's "
        "gradient can look healthy while all of it comes from the newest steps: that is what monitors of parameter "
        "norms cannot see."
    ),
    needs="weight shares, which recurrences have",
    draw=draw,
    tell=tell,
)
