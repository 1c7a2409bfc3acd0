"""Gradients, Jacobian norms and shares of dL/dW over the steps."""

from __future__ import annotations

import math

from gradscope.charts import chart
from gradscope.charts.chart import Chart, Panel, lines
from gradscope.records import ModelResult, Number, Report
from gradscope.renderers import numbers

GRADIENTS_OF = {"log10_grad_state": "‖dL/ds‖", "log10_grad_input": "‖dL/dx‖"}


def draw_gradients(report: Report) -> list[Panel]:
    """Gradients over time: what each state and each input gets of the whole loss.

    ‖dL/ds_t‖ of each model over steps; of a single model ‖dL/dx_t‖ beside it.
    """
    if len(report.models) == 1:
        model = report.models[0]
        held = [name for name in GRADIENTS_OF if model.series.values.get(name)]
        found = [row for name in held for row in chart.over_steps(model, name, GRADIENTS_OF[name])]
        return lines(found, [GRADIENTS_OF[name] for name in held], "norm of the gradient")
    found = [row for model in report.models for row in chart.over_steps(model, "log10_grad_input")]
    return lines(found, chart.names(report), "norm of dL/dx")


def tell_gradients(report: Report) -> str:
    """First and last value of every line."""
    return "Norm of the loss's gradient over steps. " + " ".join(_gradients_told(model) for model in report.models)


def _gradients_told(model: ModelResult) -> str:
    values = model.series.values.get("log10_grad_input") or model.series.values.get("log10_grad_state") or ()
    if not values:
        return f"{model.name}: not measured."
    first, last = numbers.scientific(values[0]), numbers.scientific(values[-1])
    return f"{model.name}: {first} at the first step, {last} at the last."


GRADIENTS = Chart(
    title="The gradient on its way back in time",
    teaches=(
        "Read from right to left, as backpropagation goes. By the chain rule, dL/ds at step t is dL/ds at the last "
        "step times the product of all Jacobians in between; where that falls to nothing, the steps before are not "
        "learned from, and where it climbs, the update is theirs alone. Exact zero, NaN and Inf stand at the edge."
    ),
    needs="gradients over steps",
    draw=draw_gradients,
    tell=tell_gradients,
)


JACOBIAN_NORM = "log10_jacobian_norm"


def draw_jacobians(report: Report) -> list[Panel]:
    """Single steps: how much one step can stretch or shrink what it passes on.

    ‖J_t‖ over steps, a line per model that has Jacobians.
    """
    found = [row for model in report.models for row in chart.over_steps(model, JACOBIAN_NORM)]
    return lines(found, chart.names(report), "norm of one Jacobian")


def tell_jacobians(report: Report) -> str:
    """Least and largest norm of every model."""
    said = []
    for model in report.models:
        finite = chart.finite_in(chart.over_steps(model, JACOBIAN_NORM))
        if finite:
            low, high = numbers.readable(min(finite)), numbers.readable(max(finite))
            said.append(f"{model.name}: between {low} and {high}.")
    return " ".join(["Norm of the Jacobian of every single step.", *said])


JACOBIANS = Chart(
    title="One step at a time",
    teaches=(
        "‖J‖ is the most by which one step can stretch a small change of its state. It says little alone: matrices "
        "that all have norm 1 can still annihilate each other, for what one keeps the next may drop. The product "
        "counts."
    ),
    needs="Jacobians",
    draw=draw_jacobians,
    tell=tell_jacobians,
)


def draw_weights(report: Report) -> list[Panel]:
    """Which steps the update of the recurrent weights comes from.

    log10 of each step's share of the contributions to dL/dW, a line per model.
    """
    found = []
    for model in report.models:
        values = _logs(model)
        if values:
            steps = model.series.step or tuple(range(len(values)))
            found += chart.thinned(steps[len(steps) - len(values) :], values, model.name)
    return lines(found, chart.names(report), "share of dL/dW")


def _logs(model: ModelResult) -> list[Number]:
    exact = model.series.values.get("log10_weight_share")
    return list(exact) if exact else [_log(value) for value in model.series.values.get("weight_share", ())]


def _log(value: Number) -> Number:
    if value is None or math.isnan(value):
        return value
    return -math.inf if value <= 0 else math.log10(value)


def tell_weights(report: Report) -> str:
    """Which part the newest tenth of the steps has."""
    said = []
    for model in report.models:
        values = [value for value in model.series.values.get("weight_share", ()) if value is not None]
        newest = values[-max(1, len(values) // 10) :]
        if values and all(map(math.isfinite, values)):
            said.append(f"{model.name}: the newest {len(newest)} steps make up {numbers.percent(sum(newest))}.")
    return " ".join(["Share of every step in the gradient of the recurrent weights.", *said])


WEIGHTS = Chart(
    title="Which steps change the weights",
    teaches=(
        "The same weights work at every step, and dL/dW is the sum of what each step contributes. A parameter's "
        "gradient can look healthy while all of it comes from the newest steps: that is what monitors of parameter "
        "norms cannot see."
    ),
    needs="weight shares, which recurrences have",
    draw=draw_weights,
    tell=tell_weights,
)
