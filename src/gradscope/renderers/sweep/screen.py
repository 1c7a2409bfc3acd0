"""The screen of a sweep: verdict, phase diagram, frontier, best point, table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gradscope.renderers.sweep import frontier, grid, words
from gradscope.renderers.sweep.grid import GLYPH, SHORT, STATUS, Plane
from gradscope.renderers.text.page import Column, Page, Span, measure, pad
from gradscope.renderers.view import View
from gradscope.swept import LOOKS, Cell, Sweep, cells

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
    sign, said = words.verdict(every)
    page.line(Span(f" {sign} ", SIGNS[sign]), Span(said, "bold"))
    if view.quiet:
        return str(page)
    page.wrap(words.heading(sweep), style="dim")
    left = words.unfinished(sweep)
    if left:
        page.wrap(left, Span(" ! ", "bold"))
    page.blank()
    _diagram(page, sweep, every)
    _sentences(page, sweep, every)
    _table(page, sweep, every)
    for reason in words.failures(sweep):
        page.wrap(reason, Span(" ✗ ", LOOKS["failed"].style))
    page.blank()
    page.wrap("numbers in cells: --shade reach   every point: --steps all   data: -o FILE.csv")
    return str(page)


def _diagram(page: Page, sweep: Sweep, every: Sequence[Cell]) -> None:
    place, view = words.chosen_field(sweep, page.view), page.view
    drawn = grid.planes(sweep, every, view)
    shown = drawn if view.steps == "all" else drawn[:PLANES]
    if place is not None:
        level, said = STATUS, grid.shading(every, place, view.ascii)
    else:
        level, said = _fitting(page, shown)
    for plane in shown:
        _plane(page, plane, said)
    if len(shown) < len(drawn):
        page.wrap(f"and {len(drawn) - len(shown)} more planes; --steps all shows every one", style="dim")
    if place is not None:
        page.wrap(f"{view.shade}: darker is more", style="dim")
    elif level != STATUS:
        page.wrap(grid.legend(every, view.ascii), style="dim")
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
    return lambda cell: grid.said(cell, level, ascii)


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
    for sentence in frontier.sentences(sweep, every):
        page.wrap(sentence, " frontier: ", "bold")
    found = words.best_point(sweep, every)
    if found is not None:
        page.wrap(found[0], " best: ")
        page.wrap(found[1], "   ")
    page.blank()


def _table(page: Page, sweep: Sweep, every: Sequence[Cell]) -> None:
    if page.narrow and page.view.steps != "all":
        return
    shown, note = words.rows(sweep, every, page.view)
    names = words.columns(sweep, page.view)
    columns = [Column(axis.name, left=not axis.numbers, flexible=not axis.numbers) for axis in sweep.axes]
    columns += [Column("", left=True), *(Column(name.replace("_", " "), optional=True) for name in names)]
    rows: list[list[str | Span]] = [
        [
            *sweep.at(cell.point),
            Span(grid.said(cell, STATUS, page.view.ascii), _style(cell)),
            *words.row(sweep, cell, names, page.view),
        ]
        for cell in shown
    ]
    if rows:
        page.table(columns, rows)
    if note:
        page.wrap(note, style="dim")
    page.blank()
