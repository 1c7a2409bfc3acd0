"""Extra pictures of a screen: gates over time, pairs of steps, and attention, as blocks or in ASCII."""

from __future__ import annotations

import math

from gradscope.records import ModelResult, Number
from gradscope.renderers.terminal import tokens as terminal_tokens
from gradscope.renderers.text import numbers
from gradscope.renderers.text.page import Page, Span, measure, pad
from gradscope.renderers.text.strip import gate_strip

LEVELS = (-1.0, -3.0, -6.0, -12.0)
"""log10 of the least norm of each shade, from dark to light."""
SHADES, ASCII_SHADES = "█▓▒░·", "#+-._"
HUGE = 6.0
LABELS = 9
"""Columns before the cells of a map."""


def pictures(page: Page, model: ModelResult) -> None:
    """Gates and pairs of steps where they are asked for, and attention of whole tokens or steps."""
    if "gates" in page.view.show:
        gates(page, model)
    if "steps" in page.view.show:
        step_pairs(page, model)
    if "attention" in page.view.show:
        terminal_tokens.heat_map(page, model, asked=True)


def gates(page: Page, model: ModelResult) -> None:
    """One strip per gate: mean activation over units, 0 to 1."""
    names = [name for name in model.series.values if name.startswith("gate.") and name.endswith(".mean")]
    if not names:
        page.wrap("(no gates to show: this model has none, or they were not recorded)", style="dim")
    labels = {name: page.clip(page.fold(name[len("gate.") : -len(".mean")]), 16) for name in names}
    wide = max((measure(label) for label in labels.values()), default=0)
    drawn = {name: gate_strip(model.series, name, page.view.width - wide - 4, page.view.ascii) for name in names}
    for name, strip in drawn.items():
        if strip is not None:
            page.line(f" {pad(labels[name], wide)}  ", Span(strip.glyphs))
    if any(drawn.values()):
        page.wrap("gate means: low = 0 (closed), tall = 1 (open); a column shows its lowest step", style="dim")
    page.blank()


def step_pairs(page: Page, model: ModelResult) -> None:
    """‖ds_t/ds_u‖ as a triangle of shades: from step u across, to step t down."""
    pairs = model.step_pairs
    if not pairs:
        page.wrap(
            f"({model.name}: no map of step pairs: it has no recurrence whose Jacobians were measured)", style="dim"
        )
        page.blank()
        return
    edges, rows = [int(edge) for edge in pairs["step"]], pairs["log10_norm"]
    room = max(1, (page.view.width - LABELS - 1) // max(1, len(rows)))
    cell = min(2, room)
    page.wrap(
        f"{model.name}: what one step still means to another, ‖ds/ds‖ from step (across) to step (down)", style="bold"
    )
    shown = [[numbers.as_number(value) for value in row] for row in rows]
    marks = ASCII_SHADES if page.view.ascii else SHADES
    for i, row in enumerate(shown):
        page.line(f" {edges[i + 1]:>{LABELS - 2}} ", "".join(_shade(value, marks) * cell for value in row))
    last = f"step {edges[-1]}"
    across = max(0, cell * len(rows) - len(last) - 1)
    page.line(" " * LABELS, Span(pad("0", across) + " " + last, "dim"))
    page.wrap(_legend(page, shown), style="dim")
    page.blank()


def _shade(value: Number, marks: str) -> str:
    if value is None:
        return " "
    if math.isnan(value) or value > HUGE:
        return "?" if math.isnan(value) else "!"
    return marks[next((place for place, least in enumerate(LEVELS) if value >= least), len(LEVELS))]


def _legend(page: Page, rows: list[list[Number]]) -> str:
    marks = ASCII_SHADES if page.view.ascii else SHADES
    said = ["over 0.1", "over 1e-3", "over 1e-6", "over 1e-12", "less"]
    seen = {_shade(value, marks) for row in rows for value in row}
    odd = {"!": "! over 1e6", "?": "? not a number"}
    pieces = [f"{mark} {words}" for mark, words in zip(marks, said, strict=True)]
    return "   ".join([*pieces, *(words for mark, words in odd.items() if mark in seen)])
