"""What a training step costs, how far each number type carries, and what a probe learned."""

from __future__ import annotations

import math

import altair as alt

from gradscope.charts import chart, look
from gradscope.charts.chart import Chart, Data, Panel
from gradscope.profile import Profile
from gradscope.records import ModelResult, Report
from gradscope.renderers import numbers, probe_wording
from gradscope.trained import Probe, Training

NUMBER_TYPES = ("float32", "bfloat16", "float16")


def draw_precision(report: Report) -> list[Panel]:
    """How many lags the gradient survives in each number type.

    A bar per model and type, from lag 0 to its horizon; a rule at the needed lag.
    """
    found = [row for model in report.models for row in _precision_rows(model)]
    if not found:
        return []
    kinds = list(dict.fromkeys(row["type"] for row in found))
    names = list(dict.fromkeys(row["by"] for row in found))
    base = (data := Data()).chart(found)
    y = alt.Y("by:N", sort=names, axis=alt.Axis(title=None, labelLimit=150))
    x = alt.X("lag:Q", axis=alt.Axis(title="lags that survive", tickMinStep=1, format="d"), scale=alt.Scale(zero=True))
    colour = alt.Color(
        "type:N",
        scale=alt.Scale(domain=kinds, range=list(look.COLOURS[: len(kinds)])),
        legend=alt.Legend(title=None, orient="top"),
    )
    offset = alt.YOffset("type:N", sort=kinds)
    tips = [alt.Tooltip("by:N", title="model"), alt.Tooltip("type:N"), alt.Tooltip("said:N", title="horizon")]
    bars = base.mark_bar().encode(x=x, y=y, yOffset=offset, color=colour, tooltip=tips)
    said = base.mark_text(align="left", dx=4, baseline="middle").encode(x=x, y=y, yOffset=offset, text="said:N")
    picture = alt.layer(bars, said).properties(height=max(80, 24 * len(found)))
    return [Panel(picture, data)]


def _precision_rows(model: ModelResult) -> list[chart.Row]:
    found = []
    last = max(1, Profile.of(model).longest)
    for name, horizon in (model.summary.precision_horizon or {}).items():
        lag = numbers.as_number(horizon.get("lag")) if isinstance(horizon, dict) else numbers.as_number(horizon)
        known = lag is not None and lag == lag and abs(lag) < 1e18
        said = f"to lag {lag:.0f}" if known and lag is not None else "all lags"
        found.append({"by": model.name, "type": str(name), "lag": lag if known else last, "said": said})
    return found


def tell_precision(report: Report) -> str:
    """Every horizon in words."""
    said = [f"{row['by']}, {row['type']}: {row['said']}." for model in report.models for row in _precision_rows(model)]
    return " ".join(["Lags over which a gradient survives in each number type.", *said])


PRECISION = Chart(
    title="How far each number type carries the gradient",
    teaches=(
        "Training runs in float32 or less. A gradient that falls under the smallest number of its type is zero, and a "
        "step whose part in dL/dW falls under the type's rounding adds nothing: beyond these lags, what was measured "
        "here in float64 is lost in practice."
    ),
    needs="precision horizons",
    draw=draw_precision,
    tell=tell_precision,
)


COUNTS = {"path_length": "path from first input to last output", "sequential_steps": "operations one after the other"}


def draw_costs(report: Report) -> list[Panel]:
    """What a training step costs as the sequence grows.

    Time of forward and backward pass by length, and the counts of operations by length.
    """
    timed = [row for model in report.models for row in _timed(report, model)]
    panels = (
        [_costs_panel(timed, report, "milliseconds, forward and backward", "time of a training step")] if timed else []
    )
    for name, said in COUNTS.items():
        counted = [row for model in report.models for row in _counted(model, name)]
        panels += [_costs_panel(counted, report, "operations", said)] if counted else []
    return panels


def _costs_panel(found: list[chart.Row], report: Report, title: str, heading: str) -> Panel:
    lengths = sorted({row["x"] for row in found})
    names, shown = chart.names(report), {row["by"] for row in found}
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


def _timed(report: Report, model: ModelResult) -> list[chart.Row]:
    entry = report.timing.training_step.get(model.name) or {}
    pairs = zip(entry.get("length") or (), entry.get("seconds") or (), strict=False)
    known = [(length, numbers.as_number(seconds)) for length, seconds in pairs]
    return [
        {"x": length, "y": chart.rounded(1000 * seconds), "by": model.name}
        for length, seconds in known
        if seconds is not None and math.isfinite(seconds) and seconds > 0
    ]


def _counted(model: ModelResult, name: str) -> list[chart.Row]:
    growth = (model.summary.growth or {}).get(name)
    pairs = zip(growth.length, growth.count, strict=False) if growth else ()
    return [{"x": length, "y": count, "by": model.name} for length, count in pairs if count > 0]


def tell_costs(report: Report) -> str:
    """How the path grows with the length, by model."""
    said = []
    for model in report.models:
        for name, words in COUNTS.items():
            growth = (model.summary.growth or {}).get(name)
            if growth and growth.count:
                said.append(f"{model.name}, {words}: {growth.count[0]} at T={growth.length[0]}, {growth.order}.")
    return " ".join(["Costs by length.", *said])


COSTS = Chart(
    title="What a training step costs",
    teaches=(
        "Both axes are logarithmic: a line that climbs as fast as it goes right is linear growth, a flat one is "
        "constant. In a recurrence the path between two steps, and the operations that must wait for each other, grow "
        "with the length. Attention joins any two steps directly, at work that grows as the square."
    ),
    needs="counts and times, which gradscope compare measures",
    draw=draw_costs,
    tell=tell_costs,
)


CHANCE, GOAL = "chance", "learned"


def draw_learning(report: Report) -> list[Panel]:
    """Learning curves of a probe: the error of every learning rate's best run over the steps of training.

    A panel per model that was probed.
    """
    alone = len(report.models) == 1
    return [
        _learning_panel(model.probe, "" if alone else model.name)
        for model in report.models
        if model.probe is not None and model.probe.runs
    ]


def _learning_panel(probe: Probe, title: str) -> Panel:
    kept = _by_rate(probe)
    found = [row for name, run in kept.items() for row in chart.thinned(run.steps, run.errors, name, log=False)]
    base = (data := Data()).chart(found)
    x = alt.X("x:Q", axis=alt.Axis(title="training step", tickMinStep=1, format="d"), scale=alt.Scale(nice=False))
    y = alt.Y("y:Q", axis=alt.Axis(title=probe_wording.unit(probe)), scale=alt.Scale(domainMin=0))
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
    for run in sorted(probe.runs, key=lambda run: (run.rate, run.learned_at or math.inf, probe_wording.least(run))):
        found.setdefault(f"rate {run.rate:g}", run)
    return found


def tell_learning(report: Report) -> str:
    """What came of every probe."""
    return " ".join(["Error over the steps of training.", *(_learning_told(model) for model in report.models)])


def _learning_told(model: ModelResult) -> str:
    if model.probe is None:
        return f"{model.name}: not trained."
    return f"{model.name}: {probe_wording.sentence(model.probe)}"


LEARNING = Chart(
    title="Does it learn?",
    teaches=(
        "The error on samples held out, over the steps of training, for the best seed at each learning rate. "
        "A long level line near chance that then falls is a model that had to open its gates first; one that never "
        "falls has not learned in that many steps, which is not the same as that it cannot."
    ),
    needs="a probe, which gradscope probe makes",
    draw=draw_learning,
    tell=tell_learning,
)
