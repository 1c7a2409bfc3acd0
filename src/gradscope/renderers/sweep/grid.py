"""The plane of a phase diagram: which axis runs down, which across, and what stands in each cell."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

from gradscope.errors import UsageError
from gradscope.records import Number
from gradscope.registry import unknown
from gradscope.renderers.text import numbers
from gradscope.renderers.view import View
from gradscope.swept import LOOKS, Axis, Cell, Sweep

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
    others = [axis for axis in sweep.axes if axis not in (down, across)]
    known = {cell.point: cell for cell in cells}
    strides = _strides(sweep.axes)
    found = []
    for places in product(*(range(len(axis.values)) for axis in others)):
        start = sum(place * strides[axis.name] for axis, place in zip(others, places, strict=True))
        columns = [place * strides[across.name] for place in range(len(across.values))] if across else [0]
        rows = tuple(
            tuple(known.get(start + place * strides[down.name] + column) for column in columns)
            for place in range(len(down.values))
        )
        told = zip(others, places, strict=True)
        fixed = tuple((axis.name, axis.values[place]) for axis, place in told if len(axis.values) > 1)
        found.append(Plane(down, across, fixed, rows))
    return found


def _strides(axes: Sequence[Axis]) -> dict[str, int]:
    """How many points on the next value of each axis is."""
    found, step = {}, 1
    for axis in reversed(axes):
        found[axis.name] = step
        step *= len(axis.values)
    return found


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
    look = LOOKS[cell.status]
    mark = look.letter if ascii else look.glyph
    split = f" {cell.agreeing}/{cell.runs}" if cell.agreeing < cell.runs else ""
    return mark if level == GLYPH else f"{mark} {cell.status if level == STATUS else look.short}{split}"


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
    seen = [(status, look) for status, look in LOOKS.items() if any(cell.status == status for cell in cells)]
    return " · ".join(f"{look.letter if ascii else look.glyph} {look.short} = {status}" for status, look in seen)


def _value(cell: Cell | None, place: int) -> Number:
    return cell.values[place] if cell is not None and cell.values else None
