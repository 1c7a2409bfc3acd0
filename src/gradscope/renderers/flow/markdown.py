"""The trajectory as Markdown: reads well in a pull request or a log book."""

from __future__ import annotations

from collections.abc import Iterable

from gradscope.renderers.flow import strips
from gradscope.renderers.flow import wording as flow_wording
from gradscope.renderers.markdown import escaped, table
from gradscope.renderers.text import wording
from gradscope.renderers.text.page import Page, pad
from gradscope.renderers.view import View
from gradscope.trajectory import Trajectory, leading

WIDTH = 56


def render(trajectory: Trajectory, view: View) -> str:
    """A section: verdict, strips, where it changed, the telling points, findings, what was left out."""
    title = f"### {Page(view).fold(flow_wording.title(trajectory))}"
    if view.quiet:
        return f"{title}\n"
    return "\n\n".join(block for block in [title, *_blocks(trajectory, view)] if block) + "\n"


def _blocks(trajectory: Trajectory, view: View) -> Iterable[str]:
    yield escaped(flow_wording.heading(trajectory), view)
    yield escaped(" ".join(flow_wording.sentences(trajectory)), view)
    if trajectory.points:
        yield _strips(trajectory, view)
        moved = [" — ".join(part for part in pair if part) for pair in flow_wording.moves(trajectory)]
        yield _list(moved, view)
        points = flow_wording.telling(trajectory, view.steps, view.step_range())
        yield table(*flow_wording.grid(trajectory, points), view)
    facts = (flow_wording.clipping, flow_wording.underflow, flow_wording.overhead)
    yield _list([said for said in (fact(trajectory) for fact in facts) if said], view)
    found = flow_wording.found(trajectory)
    yield _list([f"{wording.VERDICT_SIGNS[v.status]} {v.code}: {v.message}" for v in found], view)
    yield _list([f"try: {tip}" for tip in flow_wording.tips(trajectory)], view)
    yield _list([f"skipped {one.source}: {one.reason}" for one in trajectory.skipped], view)
    yield _list([f"note: {note}" for note in trajectory.notes], view)


def _list(lines: list[str], view: View) -> str:
    return "\n".join(f"- {escaped(line, view)}" for line in lines)


def _strips(trajectory: Trajectory, view: View) -> str:
    page, rows = Page(view), strips.rows(trajectory, WIDTH, view.ascii)
    points = leading(trajectory) or trajectory.points
    lines = [" " * 10 + page.fold(strips.axis(points, WIDTH))]
    lines += [f"{pad(row.label, 9)} {page.fold(row.glyphs)}  {page.fold(row.ends)}".rstrip() for row in rows]
    lines.append(page.fold(strips.legend(trajectory, rows, WIDTH, view.ascii)))
    return "\n".join(["```text", *lines, "```"])
