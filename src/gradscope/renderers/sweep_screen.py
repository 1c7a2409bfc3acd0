"""The screen of a sweep: verdict, phase diagram, frontier, best point, table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

from gradscope.errors import UsageError
from gradscope.records import Number
from gradscope.registry import unknown
from gradscope.renderers import numbers, sweep_wording
from gradscope.renderers.styled_text import Column, Page, Span, measure, pad
from gradscope.renderers.view import View
from gradscope.swept import LOOKS, Axis, Cell, Sweep, cells

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


SIGNS = {"✓": f"bold {LOOKS['healthy'].style}", "✗": LOOKS["failed"].style, "≈": "bold"}
PLANES, ROWS = 12, 60
"""As many are drawn, unless every one is asked for."""
Said = Callable[[Cell | None], str]


def render(sweep: Sweep, view: View) -> str:
    """The phase diagram and what follows from it.

    Raises:
        UsageError: `view` names an axis or a number that the sweep does not have.
    """
    page, every = Page(view), list(cells(sweep))
    sign, said = sweep_wording.verdict(every)
    page.line(Span(f" {sign} ", SIGNS[sign]), Span(said, "bold"))
    if view.quiet:
        return str(page)
    page.wrap(sweep_wording.heading(sweep), style="dim")
    left = sweep_wording.unfinished(sweep)
    if left:
        page.wrap(left, Span(" ! ", "bold"))
    page.blank()
    _diagram(page, sweep, every)
    _sentences(page, sweep, every)
    _table(page, sweep, every)
    for reason in sweep_wording.failures(sweep):
        page.wrap(reason, Span(" ✗ ", LOOKS["failed"].style))
    page.blank()
    page.wrap("numbers in cells: --shade reach   every point: --steps all   data: -o FILE.csv")
    return str(page)


def _diagram(page: Page, sweep: Sweep, every: Sequence[Cell]) -> None:
    place, view = sweep_wording.chosen_field(sweep, page.view), page.view
    drawn = planes(sweep, every, view)
    shown = drawn if view.steps == "all" else drawn[:PLANES]
    if place is not None:
        level, said = STATUS, shading(every, place, view.ascii)
    else:
        level, said = _fitting(page, shown)
    for plane in shown:
        _plane(page, plane, said)
    if len(shown) < len(drawn):
        page.wrap(f"and {len(drawn) - len(shown)} more planes; --steps all shows every one", style="dim")
    if place is not None:
        page.wrap(f"{view.shade}: darker is more", style="dim")
    elif level != STATUS:
        page.wrap(legend(every, view.ascii), style="dim")
    page.blank()


def _fitting(page: Page, drawn: Sequence[Plane]) -> tuple[int, Said]:
    """As much of the words as the width takes."""
    for level in (STATUS, SHORT, GLYPH):
        said = _saying(level, page.view.ascii)
        if (
            max(map(sum, (_widths(page, plane, said) for plane in drawn)), default=0) <= page.view.width
            or level == GLYPH
        ):
            break
    return level, said


def _saying(level: int, ascii: bool) -> Said:
    return lambda cell: said(cell, level, ascii)


def _widths(page: Page, plane: Plane, said: Said) -> list[int]:
    """Columns of the row heads, then of each column with the space before it."""
    first = max(measure(page.fold(text)) for text in (_corner(plane), *plane.down.values)) + 1
    heads = plane.across.values if plane.across else ("",)
    shown = plane.rows if page.view.steps == "all" else plane.rows[:ROWS]
    return [
        first,
        *(
            2 + max(measure(text) for text in (page.fold(head), *(page.fold(said(row[i])) for row in shown)))
            for i, head in enumerate(heads)
        ),
    ]


def _corner(plane: Plane) -> str:
    return f"{plane.down.name} \\ {plane.across.name}" if plane.across else plane.down.name


def _plane(page: Page, plane: Plane, said: Said) -> None:
    if plane.fixed:
        page.line(Span(" " + ", ".join(f"{name}={value}" for name, value in plane.fixed), "bold"))
    widths = _widths(page, plane, said)
    heads = plane.across.values if plane.across else ("",)
    corner = pad(page.fold(_corner(plane)), widths[0] - 1)
    named = zip(heads, widths[1:], strict=True)
    page.line(Span(f" {corner}", "dim"), *(Span(pad(f"  {page.fold(head)}", wide), "dim") for head, wide in named))
    all_rows = list(zip(plane.down.values, plane.rows, strict=True))
    rows = all_rows if page.view.steps == "all" else all_rows[:ROWS]
    for text, row in rows:
        head = page.fold(text)
        lead = " " * (widths[0] - 1 - measure(head)) + head
        parts = [Span(pad(f"  {page.fold(said(c))}", w), _style(c)) for c, w in zip(row, widths[1:], strict=True)]
        page.line(f" {lead}", *parts)
    if len(rows) < len(all_rows):
        page.wrap(f"and {len(all_rows) - len(rows)} more rows; --steps all shows every one", style="dim")
    page.blank()


def _style(cell: Cell | None) -> str:
    return LOOKS[cell.status].style if cell is not None else ""


def _sentences(page: Page, sweep: Sweep, every: Sequence[Cell]) -> None:
    for sentence in sweep_wording.sentences(sweep, every):
        page.wrap(sentence, " frontier: ", "bold")
    found = sweep_wording.best_point(sweep, every)
    if found is not None:
        page.wrap(found[0], " best: ")
        page.wrap(found[1], "   ")
    page.blank()


def _table(page: Page, sweep: Sweep, every: Sequence[Cell]) -> None:
    if page.narrow and page.view.steps != "all":
        return
    shown, note = sweep_wording.rows(sweep, every, page.view)
    names = sweep_wording.columns(sweep, page.view)
    columns = [Column(axis.name, left=not axis.numbers, flexible=not axis.numbers) for axis in sweep.axes]
    columns += [Column("", left=True), *(Column(name.replace("_", " "), optional=True) for name in names)]
    rows: list[list[str | Span]] = [
        [
            *sweep.at(cell.point),
            Span(said(cell, STATUS, page.view.ascii), _style(cell)),
            *sweep_wording.row(sweep, cell, names, page.view),
        ]
        for cell in shown
    ]
    if rows:
        page.table(columns, rows)
    if note:
        page.wrap(note, style="dim")
    page.blank()
