"""Gates and parts of the state over time."""

from __future__ import annotations

from gradscope.charts import rows
from gradscope.charts.chart import Chart, Panel
from gradscope.charts.lines import lines
from gradscope.records import ModelResult, Report
from gradscope.renderers.text import numbers

PARTS = {"gate.": ".mean", "state.": ".rms"}
"""How the names of such series begin and end."""


def draw(report: Report) -> list[Panel]:
    """A panel per model with gates: mean activation over units, 0 to 1; another for named parts of a state."""
    panels = []
    for model in report.models:
        for start, end in PARTS.items():
            held = _names(model, start, end)
            found = [row for name, said in held.items() for row in rows.over_steps(model, name, said, log=False)]
            gates = start == "gate."
            title = "mean activation" if gates else "root mean square"
            drawn = lines(found, list(held.values()), title, log=False, domain=(0.0, 1.0) if gates else None)
            titled = model.name if len(report.models) > 1 else ""
            panels += [Panel(panel.picture, panel.data, titled, panel.reads, key=panel.key) for panel in drawn]
    return panels


def _names(model: ModelResult, start: str, end: str) -> dict[str, str]:
    return {
        name: name[len(start) : -len(end)]
        for name in model.series.values
        if name.startswith(start) and name.endswith(end) and len(name) > len(start) + len(end)
    }


def tell(report: Report) -> str:
    """Mean of every gate over time."""
    said = []
    for model in report.models:
        for name, shown in _names(model, "gate.", ".mean").items():
            values = [value for value in model.series.values[name] if value is not None]
            if values:
                said.append(f"{model.name} {shown}: {numbers.plain(sum(values) / len(values))} on average.")
    return " ".join(["Mean activation over time.", *said])


CHART = Chart(
    title="Gates over time",
    teaches=(
        "A gate is a number between 0 (closed) and 1 (open) that each unit computes at each step; drawn is its mean "
        "over units. In an LSTM the product of forget gates is what old gradients are multiplied by: 0.97 keeps half "
        "for 23 steps, 0.5 for one."
    ),
    needs="gates, which recurrences like LSTM and GRU have",
    draw=draw,
    tell=tell,
)
