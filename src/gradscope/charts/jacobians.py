"""Single steps: how much one step can stretch or shrink what it passes on."""

from __future__ import annotations

from gradscope.charts import rows
from gradscope.charts.chart import Chart, Panel
from gradscope.charts.lines import lines
from gradscope.records import Report
from gradscope.renderers.text import numbers

NAME = "log10_jacobian_norm"


def draw(report: Report) -> list[Panel]:
    """‖J_t‖ over steps, a line per model that has Jacobians."""
    found = [row for model in report.models for row in rows.over_steps(model, NAME)]
    return lines(found, rows.names(report), "norm of one Jacobian")


def tell(report: Report) -> str:
    """Least and largest norm of every model."""
    said = []
    for model in report.models:
        finite = rows.finite_in(rows.over_steps(model, NAME))
        if finite:
            low, high = numbers.readable(min(finite)), numbers.readable(max(finite))
            said.append(f"{model.name}: between {low} and {high}.")
    return " ".join(["Norm of the Jacobian of every single step.", *said])


CHART = Chart(
    title="One step at a time",
    teaches=(
        "‖J‖ is the most by which one step can stretch a small change of its state. It says little alone: matrices "
        "that all have norm 1 can still annihilate each other, for what one keeps the next may drop. The product "
        "counts."
    ),
    needs="Jacobians",
    draw=draw,
    tell=tell,
)
