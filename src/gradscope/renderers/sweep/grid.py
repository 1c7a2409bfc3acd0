"""The plane of a phase diagram: which axis runs down, which across, and what stands in each cell."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from gradscope.errors import UsageError
from gradscope.records import Number
from gradscope.registry import unknown
from gradscope.renderers.text import numbers
from gradscope.renderers.view import View
from gradscope.swept import Axis, Cell, Sweep

GLYPHS: Mapping[str, tuple[str, str, str, str]] = {
    # status: glyph, glyph in ASCII, word, short word
    "healthy": ("✓", "+", "healthy", "ok"),
    "vanishing": ("▼", "v", "vanishing", "van"),
    "exploding": ("▲", "^", "exploding", "exp"),
    "non-finite": ("∎", "!", "non-finite", "nan"),
    "degenerate": ("◆", "=", "degenerate", "deg"),
    "inconclusive": ("?", "?", "inconclusive", "unc"),
    "failed": ("✗", "x", "failed", "red"),
    "running": ("◌", "~", "running", "run"),
    "waiting": ("·", ".", "waiting", "..."),
}
SHADES = ("░▒▓█", ".-+#")
STATUS, SHORT, GLYPH = 0, 1, 2
"""How much of its word a cell shows."""


@dataclass(frozen=True)
class Plane:
    """Two axes with the others at fixed values; a plane of one axis has one column without a head."""

    down: Axis
    across: Axis | None
    fixed: tuple[tuple[str, str], ...]
    """Names and values of the other axes that take more than one."""
    rows: tuple[tuple[Cell | None, ...], ...]


def planes(sweep: Sweep, cells: Sequence[Cell], view: View) -> list[Plane]:
    """One plane for every combination of the axes that are neither down nor across.

    Raises:
        UsageError: `view` names an axis that the sweep does not have.
    """
    down, across = _chosen(sweep.axes, view)
    names = [axis.name for axis in sweep.axes]
    others = [axis for axis in sweep.axes if axis not in (down, across)]
    known = {cell.point: cell for cell in cells}
    found = []
    for values in product(*(axis.values for axis in others)):
        fixed = dict(zip((axis.name for axis in others), values, strict=True))
        rows = tuple(
            tuple(
                known.get(point_of(sweep.axes, [{**fixed, down.name: y, **_named(across, x)}[name] for name in names]))
                for x in (across.values if across else ("",))
            )
            for y in down.values
        )
        told = tuple((axis.name, fixed[axis.name]) for axis in others if len(axis.values) > 1)
        found.append(Plane(down, across, told, rows))
    return found


def point_of(axes: Sequence[Axis], texts: Sequence[str]) -> int:
    """The point at which the axes have these values."""
    point = 0
    for axis, text in zip(axes, texts, strict=True):
        point = point * len(axis.values) + axis.values.index(text)
    return point


def _named(across: Axis | None, value: str) -> dict[str, str]:
    return {} if across is None else {across.name: value}


def _chosen(axes: Sequence[Axis], view: View) -> tuple[Axis, Axis | None]:
    """Down: as asked, else the axis with most values; across: the next."""
    names = {axis.name: axis for axis in axes}
    for flag, name in (("--y", view.y), ("--x", view.x)):
        if name and name not in names:
            raise UsageError(f"{unknown('axis', name, names)} ({flag})")
    if view.x and view.x == view.y:
        raise UsageError(f"--x and --y are both '{view.x}'; name two axes")
    rest = sorted(axes, key=lambda axis: -len(axis.values))
    down = names[view.y] if view.y else next((axis for axis in rest if axis.name != view.x), rest[0])
    rest = [axis for axis in rest if axis is not down and (len(axis.values) > 1 or axis.name == view.x)]
    across = names[view.x] if view.x and view.x != down.name else rest[0] if rest else None
    return down, across


def said(cell: Cell | None, level: int, ascii: bool) -> str:
    """`▼ vanishing 4/5`: what most seeds of a cell say, and how many, where they disagree."""
    if cell is None:
        return ""
    glyph, plain, word, short = GLYPHS.get(cell.status, GLYPHS["inconclusive"])
    mark = plain if ascii else glyph
    split = f" {cell.agreeing}/{cell.runs}" if cell.agreeing < cell.runs else ""
    return mark if level == GLYPH else f"{mark} {word if level == STATUS else short}{split}"


def shading(cells: Sequence[Cell], place: int, ascii: bool) -> Callable[[Cell | None], str]:
    """What shows a number of the cells: a block, darker for more, and the number."""
    known = [value for cell in cells if (value := _value(cell, place)) is not None and math.isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    blocks = SHADES[ascii]

    def shade(cell: Cell | None) -> str:
        value = _value(cell, place)
        if cell is None or value is None:
            return said(cell, GLYPH, ascii) if cell is not None and cell.status == "failed" else numbers.MISSING
        if not math.isfinite(value):
            return f"{blocks[-1 if value > 0 else 0]} {numbers.plain(value)}"
        part = (value - low) / (high - low) if high > low else 0.0
        return f"{blocks[min(len(blocks) - 1, int(part * len(blocks)))]} {numbers.plain(value)}"

    return shade


def legend(cells: Sequence[Cell], ascii: bool) -> str:
    """`▼ van vanishing`: every glyph that occurs, with its words."""
    seen = [status for status in GLYPHS if any(cell.status == status for cell in cells)]
    return " · ".join(f"{GLYPHS[status][int(ascii)]} {GLYPHS[status][3]} = {status}" for status in seen)


def _value(cell: Cell | None, place: int) -> Number:
    return cell.values[place] if cell is not None and cell.values else None
