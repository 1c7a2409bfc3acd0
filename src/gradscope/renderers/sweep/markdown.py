"""A sweep as Markdown: the phase diagram and the table as tables."""

from __future__ import annotations

from gradscope.renderers.markdown import escaped, table
from gradscope.renderers.sweep import frontier, grid, words
from gradscope.renderers.view import View
from gradscope.swept import Sweep, cells


def render(sweep: Sweep, view: View) -> str:
    """Verdict, phase diagram, frontier, the best point with its command, table, failures.

    Raises:
        UsageError: `view` names an axis or a number that the sweep does not have.
    """
    every = list(cells(sweep))
    sign, said = words.verdict(every)
    parts = [f"## {escaped(f'{sign} {said}', view)}", escaped(words.heading(sweep), view)]
    left = words.unfinished(sweep)
    parts += [escaped(left, view)] if left else []
    place = words.chosen_field(sweep, view)
    shade = None if place is None else grid.shading(every, place, view.ascii)
    for plane in grid.planes(sweep, every, view):
        if plane.fixed:
            parts.append("### " + escaped(", ".join(f"{name}={value}" for name, value in plane.fixed), view))
        corner = f"{plane.down.name} / {plane.across.name}" if plane.across else plane.down.name
        heads = [corner, *(plane.across.values if plane.across else ("",))]
        rows = [
            [text, *(shade(cell) if shade else grid.said(cell, grid.STATUS, view.ascii) for cell in row)]
            for text, row in zip(plane.down.values, plane.rows, strict=True)
        ]
        parts.append(table(heads, rows, view))
    told = frontier.sentences(sweep, every)
    parts += ["\n".join(f"- {escaped(sentence, view)}" for sentence in told)] if told else []
    found = words.best_point(sweep, every)
    if found is not None:
        parts.append(f"Best: {escaped(found[0], view)}\n\n    {escaped_code(found[1])}")
    names = words.columns(sweep, view)
    shown, note = words.rows(sweep, every, view)
    heads = [*(axis.name for axis in sweep.axes), "status", *(name.replace("_", " ") for name in names)]
    body = [
        [*sweep.at(cell.point), grid.said(cell, grid.STATUS, view.ascii), *words.row(sweep, cell, names, view)]
        for cell in shown
    ]
    parts += [table(heads, body, view)] if body else []
    parts += [escaped(note, view)] if note else []
    failed = words.failures(sweep)
    parts += ["\n".join(f"- {escaped(reason, view)}" for reason in failed)] if failed else []
    return "\n\n".join(parts) + "\n"


def escaped_code(text: str) -> str:
    """A line of an indented block, in which nothing is special but its end."""
    from gradscope.text import safe_text

    return safe_text(text, 1000)
