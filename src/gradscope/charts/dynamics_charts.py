"""Singular values, exponents and gates: what the recurrence does to a perturbation."""

from __future__ import annotations

import math
from typing import Any

import altair as alt

from gradscope.charts import chart, look
from gradscope.charts.chart import Chart, Data, Panel, lines
from gradscope.records import ModelResult, Report
from gradscope.renderers import numbers

MOST_VALUES = 24
"""Singular values drawn; of more, these evenly by rank, the first and last among them."""
DEEPEST_DECADE = 60.0
"""Decades under the largest that are drawn: what lies deeper says no more."""


def draw_spectrum(report: Report) -> list[Panel]:
    """Singular values of the product of the last Jacobians, by how many are multiplied.

    A panel per model: log10 of the singular values over the lag, hollow where float64 cannot resolve them.
    """
    return [panel for model in report.models if (panel := _spectrum_panel(model, len(report.models) > 1))]


def _spectrum_panel(model: ModelResult, titled: bool) -> Panel | None:
    found = _spectrum_rows(model)
    if not found:
        return None
    base = (data := Data()).chart(found)
    x = alt.X(
        "x:Q", axis=alt.Axis(title="Jacobians multiplied (lag)", format="~s"), scale=alt.Scale(type="log", nice=False)
    )
    y = alt.Y("y:Q", axis=look.log_axis("singular value", [row["y"] for row in found]))
    colour = alt.Color(
        "rank:Q", scale=alt.Scale(scheme=look.SHADES), legend=alt.Legend(title="rank", format="d", tickMinStep=1)
    )
    tips = [alt.Tooltip("x:Q", title="lag"), alt.Tooltip("rank:Q"), alt.Tooltip("said:N", title="singular value")]
    drawn = base.mark_line(strokeWidth=1.5, opacity=0.9).encode(x=x, y=y, color=colour, detail="rank:N")
    dots = base.mark_point(size=26, opacity=1).encode(
        x=x,
        y=y,
        color=colour,
        tooltip=tips,
        fill=alt.condition("datum.sure", alt.Fill("rank:Q", legend=None), alt.value("transparent")),
    )
    return Panel(
        alt.layer(drawn, dots).properties(height=look.HEIGHT), data, model.name if titled else "", wide=not titled
    )


def _spectrum_rows(model: ModelResult) -> list[chart.Row]:
    spectra = model.singular_values
    if spectra is None:
        return []
    most = max((len(values) for values in spectra.ln_sigma), default=0)
    ranks = sorted({round(i * (most - 1) / max(1, min(MOST_VALUES, most) - 1)) for i in range(min(MOST_VALUES, most))})
    found = []
    for lag, values, sure in zip(spectra.lag, spectra.ln_sigma, spectra.resolved, strict=False):
        top = values[0] if values and values[0] is not None else 0.0
        for rank in ranks:
            value = values[rank] if rank < len(values) else None
            if value is None or not math.isfinite(value) or value - top < -DEEPEST_DECADE * math.log(10):
                continue
            log10 = value / math.log(10)
            said = numbers.scientific(log10)
            found.append(
                {"x": lag, "y": chart.rounded(log10), "rank": rank + 1, "sure": bool(sure[rank]), "said": said}
            )
    return found


def tell_spectrum(report: Report) -> str:
    """How the largest singular value moves, and how many directions are left."""
    said = []
    for model in report.models:
        spectra = model.singular_values
        if spectra is None or not spectra.lag or not spectra.ln_sigma[-1]:
            continue
        largest = spectra.ln_sigma[-1][0]
        log10 = None if largest is None else largest / math.log(10)
        left = model.summary.directions
        ways = "" if left is None else f", {left} of {model.size} directions left"
        said.append(f"{model.name}: the largest is {numbers.scientific(log10)} after {spectra.lag[-1]} steps{ways}.")
    return " ".join(["Singular values of products of Jacobians by lag.", *said])


SPECTRUM = Chart(
    title="What is left of a state's directions",
    teaches=(
        "A product of Jacobians stretches some directions of the state and shrinks others; each line is one singular "
        "value of the product of the last so many. Where all fall, the past is lost. Where one stays up and the rest "
        "fall, the state still hears that something happened, but no longer what. Hollow: beyond what float64 tells."
    ),
    needs="singular values of products",
    draw=draw_spectrum,
    tell=tell_spectrum,
)


FEW_EXPONENTS = 12
EXPONENT_KINDS = {"lyapunov": "Lyapunov, along the trajectory", "finite_time_exponents": "finite-time, of the product"}


def draw_exponents(report: Report) -> list[Panel]:
    """Lyapunov exponents beside the finite-time ones.

    Exponents by rank; of several models the Lyapunov ones, of a single one both kinds.
    """
    alone = len(report.models) == 1
    kinds = list(EXPONENT_KINDS) if alone else ["lyapunov"]
    found = [
        row
        for model in report.models
        for kind in kinds
        for row in _exponents_rows(model, kind, EXPONENT_KINDS[kind] if alone else model.name)
    ]
    if not found:
        return []
    shown = list(dict.fromkeys(row["by"] for row in found))
    names = shown if alone else chart.names(report)
    base = (data := Data()).chart(found)
    x = alt.X("x:Q", axis=alt.Axis(title="rank", format="d", **_ticks(found)), scale=alt.Scale(nice=False, padding=12))
    y = alt.Y("y:Q", axis=alt.Axis(title="nats per step"))
    tips = [alt.Tooltip("by:N", title=" "), alt.Tooltip("x:Q", title="rank"), alt.Tooltip("y:Q", title="nats per step")]
    zero = data.chart([{"y": 0}]).mark_rule(opacity=0.6).encode(y="y:Q")
    drawn = base.mark_line(strokeWidth=1.5).encode(x=x, y=y, **look.by_model(names, shown))
    dots = base.mark_point(filled=True, size=34).encode(
        x=x, y=y, color=look.by_model(names, shown)["color"], tooltip=tips
    )
    return [Panel(alt.layer(zero, drawn, dots).properties(height=look.HEIGHT), data, key=look.key(names, shown))]


def _ticks(found: list[chart.Row]) -> dict[str, Any]:
    """Every rank where there are few: a short axis would invent halves."""
    last = max(row["x"] for row in found)
    return {"values": list(range(1, last + 1))} if last <= FEW_EXPONENTS else {}


def _exponents_rows(model: ModelResult, kind: str, by: str) -> list[chart.Row]:
    values = getattr(model.summary, kind) or ()
    return [
        {"x": rank, "y": chart.rounded(value), "by": by}
        for rank, value in enumerate(values, 1)
        if value is not None and math.isfinite(value)
    ]


def tell_exponents(report: Report) -> str:
    """The leading exponent of every model."""
    said = [
        f"{model.name}: the leading one is {numbers.plain(model.summary.lyapunov[0])} nats per step."
        for model in report.models
        if model.summary.lyapunov
    ]
    return " ".join(["Exponents by rank.", *said])


EXPONENTS = Chart(
    title="Growth rates of small changes",
    teaches=(
        "Each exponent is the mean rate at which a small change of the state along one direction grows (above 0) or "
        "fades (below), in nats per step. Near 0 is where memory lives; a leading one well above 0 is chaos."
    ),
    needs="Lyapunov exponents",
    draw=draw_exponents,
    tell=tell_exponents,
)


GATE_PARTS = {"gate.": ".mean", "state.": ".rms"}
"""How the names of such series begin and end."""


def draw_gates(report: Report) -> list[Panel]:
    """Gates and parts of the state over time.

    A panel per model with gates: mean activation over units, 0 to 1; another for named parts of a state.
    """
    panels = []
    for model in report.models:
        for start, end in GATE_PARTS.items():
            held = _gate_names(model, start, end)
            found = [row for name, said in held.items() for row in chart.over_steps(model, name, said, log=False)]
            gates = start == "gate."
            title = "mean activation" if gates else "root mean square"
            drawn = lines(found, list(held.values()), title, log=False, domain=(0.0, 1.0) if gates else None)
            titled = model.name if len(report.models) > 1 else ""
            panels += [Panel(panel.picture, panel.data, titled, panel.reads, key=panel.key) for panel in drawn]
    return panels


def _gate_names(model: ModelResult, start: str, end: str) -> dict[str, str]:
    return {
        name: name[len(start) : -len(end)]
        for name in model.series.values
        if name.startswith(start) and name.endswith(end) and len(name) > len(start) + len(end)
    }


def tell_gates(report: Report) -> str:
    """Mean of every gate over time."""
    said = []
    for model in report.models:
        for name, shown in _gate_names(model, "gate.", ".mean").items():
            values = [value for value in model.series.values[name] if value is not None]
            if values:
                said.append(f"{model.name} {shown}: {numbers.plain(sum(values) / len(values))} on average.")
    return " ".join(["Mean activation over time.", *said])


GATES = Chart(
    title="Gates over time",
    teaches=(
        "A gate is a number between 0 (closed) and 1 (open) that each unit computes at each step; drawn is its mean "
        "over units. In an LSTM the product of forget gates is what old gradients are multiplied by: 0.97 keeps half "
        "for 23 steps, 0.5 for one."
    ),
    needs="gates, which recurrences like LSTM and GRU have",
    draw=draw_gates,
    tell=tell_gates,
)
