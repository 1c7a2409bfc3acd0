"""The screen of a training run: what became of the reach, the strips, where it changed, and what moved there."""

from __future__ import annotations

from gradscope.renderers.flow import strips
from gradscope.renderers.flow import wording as flow_wording
from gradscope.renderers.text import wording
from gradscope.renderers.text.page import Column, Page, Span, measure, pad
from gradscope.renderers.view import View
from gradscope.rules.judge import trajectory_status
from gradscope.trajectory import Point, Trajectory, leading
from gradscope.verdicts import STATUSES

LABEL = 9
ENDS = 24
OPTIONAL = 5
"""Columns of `HEADS` from here on give way where there is no room."""
LEFT = ("status", "layer", "measured")
FLEXIBLE = ("layer", "measured")


def render(trajectory: Trajectory, view: View) -> str:
    """The whole screen; its first line alone where that is asked for."""
    return str(page(trajectory, view))


def page(trajectory: Trajectory, view: View) -> Page:
    """The same as lines, for other ways of showing them."""
    page = Page(view)
    _title(page, trajectory)
    if view.quiet:
        return page
    for sentence in flow_wording.sentences(trajectory):
        page.wrap(sentence)
    page.blank()
    if trajectory.points:
        _strips(page, trajectory)
        _moves(page, trajectory)
        _table(page, trajectory)
    _facts(page, trajectory)
    _findings(page, trajectory)
    _left_out(page, trajectory)
    codes = [flow_wording.code(trajectory), *(verdict.code for verdict in flow_wording.found(trajectory))]
    why = next((f"why: gradscope explain {code}   " for code in codes if code), "")
    page.wrap(f"{why}every point: --steps all   data: --format csv", style="dim")
    return page


def point_line(point: Point, view: View, *, named: bool = False) -> str:
    """One line for a point that was just measured: `step 400  ✗ vanishing  reach 12/99  share 10^-6`.

    Args:
        point: what was measured.
        view: how it is shown.
        named: whether its layer is told, for there are several.
    """
    page = Page(view)
    known = dict(zip(flow_wording.HEADS, flow_wording.cells(point), strict=True))
    parts = [f"{name} {known[name]}" for name in ("reach", "share", "rate", "loss") if known[name]]
    status = point.status or "inconclusive"
    sign = Span(f"{STATUSES[status].sign} {status:<12}", STATUSES[status].style)
    page.line(
        f" step {point.step:<8}",
        sign,
        "  ".join(["", *parts]),
        f"  layer {point.layer}" if named and point.layer else "",
        Span(f"  {point.source}" if point.source else "", "dim"),
    )
    return str(page)


def _title(page: Page, trajectory: Trajectory) -> None:
    style = STATUSES[trajectory_status(trajectory)].style
    said, heading = f" {flow_wording.title(trajectory)}", flow_wording.heading(trajectory)
    if page.narrow or measure(page.fold(said)) + 2 + measure(page.fold(heading)) > page.view.width:
        page.line(Span(said, f"bold {style}"))
        page.wrap(heading)
        return
    page.line(Span(said, f"bold {style}"), f"  {heading}")


def _strips(page: Page, trajectory: Trajectory) -> None:
    ends = 0 if page.narrow else ENDS
    width = page.view.width - 2 - LABEL - (ends + 2 if ends else 0)
    drawn = strips.rows(trajectory, width, page.view.ascii)
    points = leading(trajectory) or trajectory.points
    page.line(" " * (LABEL + 1), Span(strips.axis(points, width), "dim"))
    style = STATUSES[trajectory_status(trajectory)].style
    for row in drawn:
        # Letters of the status row are ASCII but for one sign, which has its own stand-in.
        page.line(f" {pad(row.label, LABEL)}", Span(row.glyphs, style), f"  {row.ends}" if ends else "")
    page.wrap(strips.legend(trajectory, drawn, width, page.view.ascii), style="dim")
    page.blank()


def _moves(page: Page, trajectory: Trajectory) -> None:
    told = flow_wording.moves(trajectory)
    for head, what in told[: None if page.view.verbose else 4]:
        page.wrap(head, " ◂ ", "bold")
        if what:
            page.wrap(what, "   ")
    if len(told) > 4 and not page.view.verbose:
        page.wrap(f"{len(told) - 4} more changes of status: -v", "   ", "dim")
    page.blank()


def _table(page: Page, trajectory: Trajectory) -> None:
    points = flow_wording.telling(trajectory, page.view.steps, page.view.step_range())
    if points:
        heads, rows = flow_wording.grid(trajectory, points)
        own = [*flow_wording.HEADS[:OPTIONAL], "layer"]
        columns = [
            Column(head, left=head in LEFT, flexible=head in FLEXIBLE, optional=head not in own) for head in heads
        ]
        page.table(columns, [[*row] for row in rows])
    page.blank()


def _facts(page: Page, trajectory: Trajectory) -> None:
    order = f"in order {trajectory.head.order}" if trajectory.head.order else ""
    facts = (flow_wording.clipping, flow_wording.underflow, flow_wording.overhead)
    for said in (order, *(fact(trajectory) for fact in facts)):
        if said:
            page.wrap(said)
    page.blank()


def _findings(page: Page, trajectory: Trajectory) -> None:
    said = flow_wording.found(trajectory)
    for verdict in said:
        if verdict == flow_wording.lead(trajectory):
            continue
        page.wrap(verdict.message, f" {wording.VERDICT_SIGNS[verdict.status]} {verdict.code}  ")
    for tip in flow_wording.tips(trajectory):
        page.wrap(tip, " try: ")
    if page.view.verbose:
        for verdict in trajectory.verdicts:
            if verdict not in said:
                page.wrap(verdict.message, f" {wording.VERDICT_SIGNS[verdict.status]} {verdict.code}  ", "dim")
    page.blank()


def _left_out(page: Page, trajectory: Trajectory) -> None:
    for one in trajectory.skipped:
        page.wrap(f"{one.source}: {one.reason}", " skipped: ", "dim")
    for note in trajectory.notes:
        page.wrap(note, " note: ", "dim")
    page.blank()
