"""Gradients over time: what each state and each input gets of the whole loss."""

from __future__ import annotations

from gradscope.charts import rows
from gradscope.charts.chart import Chart, Panel
from gradscope.charts.lines import lines
from gradscope.records import ModelResult, Report
from gradscope.renderers.text import numbers

SERIES = {"log10_grad_state": "‖dL/ds‖", "log10_grad_input": "‖dL/dx‖"}


def draw(report: Report) -> list[Panel]:
    """‖dL/ds_t‖ of each model over steps; of a single model ‖dL/dx_t‖ beside it."""
    if len(report.models) == 1:
        model = report.models[0]
        held = [name for name in SERIES if model.series.values.get(name)]
        found = [row for name in held for row in rows.over_steps(model, name, SERIES[name])]
        return lines(found, [SERIES[name] for name in held], "norm of the gradient")
    found = [row for model in report.models for row in rows.over_steps(model, "log10_grad_input")]
    return lines(found, rows.names(report), "norm of dL/dx")


def tell(report: Report) -> str:
    """First and last value of every line."""
    return "Norm of the loss's gradient over steps. " + " ".join(_told(model) for model in report.models)


def _told(model: ModelResult) -> str:
    values = model.series.values.get("log10_grad_input") or model.series.values.get("log10_grad_state") or ()
    if not values:
        return f"{model.name}: not measured."
    first, last = numbers.scientific(values[0]), numbers.scientific(values[-1])
    return f"{model.name}: {first} at the first step, {last} at the last."


CHART = Chart(
    title="The gradient on its way back in time",
    teaches=(
        "Read from right to left, as backpropagation goes. By the chain rule, dL/ds at step t is dL/ds at the last "
        "step times the product of all Jacobians in between; where that falls to nothing, the steps before are not "
        "learned from, and where it climbs, the update is theirs alone. Exact zero, NaN and Inf stand at the edge."
    ),
    needs="gradients over steps",
    draw=draw,
    tell=tell,
)
