"""Learning curves of a probe: the error of every learning rate's best run over the steps of training."""

from __future__ import annotations

import math

import altair as alt

from gradscope.charts import look, rows
from gradscope.charts.chart import Chart, Data, Panel
from gradscope.records import ModelResult, Report
from gradscope.renderers.text import probing
from gradscope.trained import Probe, Training

CHANCE, GOAL = "chance", "learned"


def draw(report: Report) -> list[Panel]:
    """A panel per model that was probed."""
    alone = len(report.models) == 1
    return [
        _panel(model.probe, "" if alone else model.name)
        for model in report.models
        if model.probe is not None and model.probe.runs
    ]


def _panel(probe: Probe, title: str) -> Panel:
    kept = _by_rate(probe)
    found = [row for name, run in kept.items() for row in rows.thinned(run.steps, run.errors, name, log=False)]
    base = (data := Data()).chart(found)
    x = alt.X("x:Q", axis=alt.Axis(title="training step", tickMinStep=1, format="d"), scale=alt.Scale(nice=False))
    y = alt.Y("y:Q", axis=alt.Axis(title=probing.unit(probe)), scale=alt.Scale(domainMin=0))
    names = list(kept)
    shown = {"by:N": "learning rate", "x:Q": "step", "y:Q": "error"}
    tips = [alt.Tooltip(name, title=title) for name, title in shown.items()]
    marks = data.chart([{"y": probe.chance, "what": CHANCE}, {"y": probe.goal, "what": GOAL}])
    rule = marks.mark_rule(strokeDash=[4, 4], opacity=0.7).encode(y="y:Q")
    words = marks.mark_text(align="right", dx=-4, dy=-5).encode(y="y:Q", x=alt.value("width"), text="what:N")
    drawn = base.mark_line(strokeWidth=2).encode(x=x, y=y, **look.by_model(names, names))
    dots = base.mark_point(filled=True, size=24).encode(
        x=x, y=y, color=look.by_model(names, names)["color"], tooltip=tips
    )
    picture = alt.layer(rule, words, drawn, dots).properties(height=look.HEIGHT)
    return Panel(picture, data, title=title, key=look.key(names, names))


def _by_rate(probe: Probe) -> dict[str, Training]:
    """The best run of each learning rate."""
    found: dict[str, Training] = {}
    for run in sorted(probe.runs, key=lambda run: (run.rate, run.learned_at or math.inf, probing.least(run))):
        found.setdefault(f"rate {run.rate:g}", run)
    return found


def tell(report: Report) -> str:
    """What came of every probe."""
    return " ".join(["Error over the steps of training.", *(_told(model) for model in report.models)])


def _told(model: ModelResult) -> str:
    if model.probe is None:
        return f"{model.name}: not trained."
    return f"{model.name}: {probing.sentence(model.probe)}"


CHART = Chart(
    title="Does it learn?",
    teaches=(
        "The error on samples held out, over the steps of training, for the best seed at each learning rate. "
        "A long level line near chance that then falls is a model that had to open its gates first; one that never "
        "falls has not learned in that many steps, which is not the same as that it cannot."
    ),
    needs="a probe, which gradscope probe makes",
    draw=draw,
    tell=tell,
)
