"""How all charts look: colours, axes, and the marks of what is not a finite number."""

from __future__ import annotations

from collections.abc import Collection
from functools import reduce
from typing import Any, Final

import altair as alt

# Okabe-Ito, without black and yellow, which do not stand on dark and on light pages alike.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ([1, 0], [6, 2], [2, 2], [8, 2, 2, 2], [4, 1], [1, 1])
INK, FAINT = "#24292f", "#8b949e"
SHADES: Final = "viridis"
SUPERSCRIPTS = tuple(zip("-−0123456789", "⁻⁻⁰¹²³⁴⁵⁶⁷⁸⁹", strict=True))
POWER = reduce(
    lambda made, pair: f"replace({made}, /{pair[0]}/g, '{pair[1]}')", SUPERSCRIPTS, "format(datum.value, 'd')"
)
AFTER_NUMBER = "substring(datum.label, indexof(datum.label, '\u2009') + 1)"
"""What a label says behind its number and a thin space."""
ODD = {"zero": "exactly zero", "nan": "NaN", "inf": "Inf", "-inf": "-Inf"}
ODD_SHAPES = ("triangle-down", "cross", "triangle-up", "diamond")
FEW_DECADES = 2.5
WIDTH, HEIGHT = 660, 260


def config(ink: str = INK, faint: str = FAINT) -> dict[str, Any]:
    """Vega-Lite configuration; a page passes `currentColor` and lets its style sheet decide."""
    return {
        "font": "system-ui, 'DejaVu Sans', 'Liberation Sans', sans-serif",
        "view": {"stroke": None},
        "axis": {
            "labelColor": ink,
            "titleColor": ink,
            "domainColor": faint,
            "tickColor": faint,
            "gridColor": faint,
            "gridOpacity": 0.2,
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "labelOverlap": "greedy",
        },
        "legend": {
            "labelColor": ink,
            "titleColor": ink,
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "labelLimit": 220,
            "symbolStrokeWidth": 2.5,
            "gradientThickness": 10,
        },
        "title": {"color": ink, "fontSize": 13, "fontWeight": "bold", "anchor": "start"},
        "text": {"color": ink, "fontSize": 12},
        "rule": {"color": ink},
    }


def by_model(names: list[str], shown: Collection[str] | None = None) -> dict[str, Any]:
    """Encodings that tell models (or other names) apart by colour and by dash, with one legend above the chart.

    Args:
        names: all of them, so that each has the same colour in every chart.
        shown: those that this chart draws; None: all.
    """
    listed = [name for name in names if shown is None or name in shown]
    legend = (
        None
        if len(listed) < 2
        else alt.Legend(
            orient="top",
            title=None,
            columns=min(4, len(listed)),
            values=listed,
            symbolType="stroke",
            symbolOpacity=1,
        )
    )
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(names))]
    dashes = [DASHES[i % len(DASHES)] for i in range(len(names))]
    return {
        "color": alt.Color("by:N", scale=alt.Scale(domain=names, range=colours), legend=legend),
        "strokeDash": alt.StrokeDash("by:N", scale=alt.Scale(domain=names, range=dashes), legend=legend),
    }


def key(names: list[str], shown: Collection[str]) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
    """The same as rows of a legend; none for a single name."""
    styled = [(name, COLOURS[i % len(COLOURS)], tuple(DASHES[i % len(DASHES)])) for i, name in enumerate(names)]
    listed = [row for row in styled if row[0] in shown]
    return tuple(listed) if len(listed) > 1 else ()


def log_axis(title: str, values: list[float]) -> alt.Axis:
    """An axis over log10 values, labelled with the numbers themselves: 10^-50 as a power."""
    known = values or [0.0]
    if max(known) - min(known) < FEW_DECADES:
        return alt.Axis(title=title, labelExpr="format(pow(10, datum.value), '.2~g')", tickCount=5)
    return alt.Axis(title=title, labelExpr=f"datum.value == 0 ? '1' : '10' + {POWER}", tickMinStep=1, tickCount=6)


def zoom() -> alt.Parameter:
    """Drag to move, shift and wheel to zoom, double click to go back."""
    return alt.selection_interval(bind="scales", encodings=["x"], zoom="wheel![event.shiftKey]", name="zoom")


def odd_marks(base: alt.Chart, x: Any, present: set[str]) -> list[alt.Chart]:
    """Marks at the edge for what has no place on the axis: zero of a log axis below, NaN and Inf above."""
    names = [ODD[what] for what in ODD if what in present]
    if not names:
        return []
    shapes = [ODD_SHAPES[list(ODD).index(what)] for what in ODD if what in present]
    shape = alt.Shape(
        "odd:N", scale=alt.Scale(domain=names, range=shapes), legend=alt.Legend(title=None, orient="bottom")
    )
    drawn = base.transform_filter("isValid(datum.odd)").encode(x=x, shape=shape, color=alt.value("#D55E00"))
    above = drawn.transform_filter(f"datum.odd != '{ODD['zero']}'").mark_point(filled=True, size=70)
    below = drawn.transform_filter(f"datum.odd == '{ODD['zero']}'").mark_point(filled=True, size=70)
    marks = [above.encode(y=alt.value(6))] if present - {"zero"} else []
    return [*marks, below.encode(y=alt.value(HEIGHT - 6))] if "zero" in present else marks
