"""The table over time on a page: every step of a short sequence, of a long one the telling and the worst ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradscope.profile import INFLUENCE
from gradscope.records import ModelResult
from gradscope.renderers.text import numbers
from gradscope.renderers.text.timeline import Timeline, telling_rows
from gradscope.renderers.view import View

ALL = 400
"""Steps up to which every one gets a row."""
STRETCHES = 150
COLUMNS = (
    ("influence", INFLUENCE),
    ("‖J‖", "log10_jacobian_norm"),
    ("‖P‖ = σmax", "log10_product_norm"),
    ("σmin", "log10_product_min"),
    ("‖dL/ds‖", "log10_grad_state"),
    ("‖dL/dx‖", "log10_grad_input"),
)


@dataclass(frozen=True)
class Cell:
    """What is written, and the number it is sorted by (empty: by what is written)."""

    text: str
    order: str = ""


@dataclass(frozen=True)
class Table:
    """Heads and rows; `note` says which steps are left out."""

    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


def steps_table(model: ModelResult, view: View) -> Table | None:
    """Steps with lag, token, norms, share of dL/dW, and a remark; None where nothing was measured over time."""
    timeline = Timeline(model.series)
    shown = [(head, name) for head, name in COLUMNS if any(v is not None for v in timeline.over(name)[1])]
    if not timeline.size or not shown:
        return None
    rows = _rows(model, timeline, view)
    shares, tokens = bool(model.series.values.get("weight_share")), bool(model.series.token)
    heads = ["step", "lag", *(["token"] if tokens else []), *(head for head, _ in shown)]
    made = []
    for place, remark in rows.items():
        step, lag = timeline.step[place], timeline.lag(place)
        cells = [Cell(str(step), str(step)), Cell(numbers.MISSING) if lag is None else Cell(str(lag), str(lag))]
        cells += [Cell(timeline.token(place) or "")] if tokens else []
        cells += [_cell(name, timeline, place) for _, name in shown]
        share = timeline.at("weight_share", place)
        cells += [Cell(numbers.percent(share), "" if share is None else repr(share))] if shares else []
        made.append((*cells, Cell(remark)))
    heads += [*(["of dL/dW"] if shares else []), ""]
    note = (
        ""
        if len(rows) == timeline.size
        else f"{len(rows)} of {timeline.size} steps: the telling ones and the worst of every stretch"
    )
    return Table(tuple(heads), tuple(made), note)


def _rows(model: ModelResult, timeline: Timeline, view: View) -> dict[int, str]:
    if view.steps != "auto" or timeline.size > ALL:
        found = telling_rows(model, timeline, view)
        extra = [] if view.steps != "auto" else _worst(timeline)
        return {place: found.get(place, "") for place in sorted({*found, *extra})}
    return telling_rows(model, timeline, View(steps="all"))


def _worst(timeline: Timeline) -> list[int]:
    """Of every stretch of steps the one whose influence is farthest from 1."""
    start, values = timeline.over(INFLUENCE)
    size = max(1, math.ceil(len(values) / STRETCHES))
    found = []
    for first in range(0, len(values), size):
        stretch = [(abs(value), place) for place, value in enumerate(values[first : first + size]) if value is not None]
        odd = [place for value, place in stretch if math.isnan(value)]
        if stretch:
            found.append(start + first + (odd[0] if odd else max(stretch)[1]))
    return found


def _cell(name: str, timeline: Timeline, place: int) -> Cell:
    value = timeline.at(name, place)
    shown = numbers.readable(value) if name == "log10_jacobian_norm" else numbers.scientific(value)
    return Cell(shown, "" if value is None or math.isnan(value) else repr(value).replace("inf", "1e999"))
