"""The screen of a training run: what became of the reach, its strips, where it changed; and the same as Markdown.

Its strips share one axis of steps, one row a quantity. A column stands for a stretch of steps and shows the worst of
its points, or the point before where that is not far; what was measured seldom leaves columns empty.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from gradscope.records import Number, Status
from gradscope.renderers import numbers, report_wording, run_wording
from gradscope.renderers.markdown import escaped, table
from gradscope.renderers.strips import CEILING, FLOOR, glyph
from gradscope.renderers.styled_text import Column, Page, Span, measure, pad
from gradscope.renderers.view import View
from gradscope.rules.judge import trajectory_status
from gradscope.text import counted
from gradscope.trajectory import Point, Trajectory, leading
from gradscope.verdicts import GRAVEST_FIRST, STATUSES

LN10 = math.log(10)
GATES = ("forget", "update", "input", "reset")
"""Gates that have a strip of their own, the most telling first."""
MOST_GATES = 2
HELD = 2
"""Mean distances between points for which a value is drawn on."""
SAME_STEP = 1e-6
"""Steps within which an edge of a column is a step's own."""


@dataclass(frozen=True)
class Row:
    """One strip: its label, its glyphs, and its first and last value in words."""

    label: str
    glyphs: str
    ends: str
    status: bool = False


def rows(trajectory: Trajectory, width: int, ascii_only: bool) -> list[Row]:
    """Share, reach, rate, leading exponent, gates, loss and status, as far as they were measured."""
    lead = leading(trajectory)
    # One layer and the whole model at most: points of other layers are other curves.
    shown = {lead[-1].layer, ""} if lead else {""}
    every = [point for point in trajectory.points if point.layer in shown]
    analyses = [point for point in every if point.kind == "analysis"]
    across = Columns.of(every, width)
    found = [
        _row("share", lead, lambda p: p.gradient_share, _low, (FLOOR, 0.0), numbers.share, across, ascii_only),
        _row("reach", lead, lambda p: p.reach, _low, (0.0, _farthest(lead)), _whole, across, ascii_only),
        _row("rate", lead, lambda p: _decades(p, p.rate), _far, (FLOOR, CEILING), None, across, ascii_only),
        _row("exponent", analyses, lambda p: _decades(p, p.lyapunov), _far, (FLOOR, CEILING), None, across, ascii_only),
        *(_gate(name, analyses, across, ascii_only) for name in gate_names(analyses)),
        _loss(every, across, ascii_only),
        _status(every, across, ascii_only),
    ]
    return [row for row in found if row is not None]


def axis(points: Sequence[Point], width: int) -> str:
    """`step 0 ◂───── step 4000`."""
    left, right = f"step {points[0].step} ◂", f" step {points[-1].step}"
    return left + "─" * max(2, width - len(left) - len(right)) + right


@dataclass(frozen=True)
class Columns:
    """The steps that the columns of all rows stand for."""

    edges: tuple[float, ...]
    """Where each begins, and where the last one ends."""
    spacing: float
    """Steps between two points, on average."""

    @classmethod
    def of(cls, points: Sequence[Point], width: int) -> Columns:
        """Columns from the first to the last step.

        The last point lasts as long as points do on average, so that evenly spaced ones are drawn equally wide.
        """
        steps = sorted({point.step for point in points}) or [0]
        spacing = (steps[-1] - steps[0]) / (len(steps) - 1) if len(steps) > 1 else 1.0
        span = steps[-1] - steps[0] + spacing
        return cls(tuple(steps[0] + span * column / width for column in range(width + 1)), spacing)

    def worst(
        self, steps: Sequence[int], values: Sequence[Number], worst: Callable[[list[Number]], Number]
    ) -> list[Number]:
        """The worst value of each column's steps, else what was measured last; None before it, and long after it."""
        found: list[Number] = []
        place = 0
        for start, stop in pairwise(self.edges):
            first = place
            while place < len(steps) and steps[place] < stop - SAME_STEP:
                place += 1
            if place == first and place and start <= steps[place - 1] + HELD * self.spacing:
                # All that was measured at that step, layer by layer.
                first = next(early for early in range(place) if steps[early] == steps[place - 1])
            found.append(worst(list(values[first:place])) if place > first else None)
        return found


def gate_names(points: Sequence[Point]) -> list[str]:
    """The gates that have a strip."""
    seen = {name for point in points for name in point.gates}
    return [name for name in GATES if name in seen][:MOST_GATES]


def _row(
    label: str,
    points: Sequence[Point],
    of: Callable[[Point], Number],
    worst: Callable[[list[Number]], Number],
    scale: tuple[float, float],
    shown: Callable[[Number], str] | None,
    across: Columns,
    ascii_only: bool,
) -> Row | None:
    held = [point for point in points if of(point) is not None]
    values = [of(point) for point in held]
    known = [value for value in values if value is not None]
    if not known:
        return None
    low, high = scale[0], max(scale[1], scale[0] + 1e-9)
    drawn = across.worst([point.step for point in held], values, worst)
    glyphs = "".join(glyph(value, low, high, ascii_only) for value in drawn)
    if shown is None:
        plain = {"rate": [p.rate for p in points], "exponent": [p.lyapunov for p in points]}[label]
        known, shown = [value for value in plain if value is not None], _rate
    return Row(label, glyphs, f"{shown(known[0])} → {shown(known[-1])}")


def _gate(name: str, points: Sequence[Point], across: Columns, ascii_only: bool) -> Row | None:
    of = lambda point: point.gates.get(name)  # noqa: E731
    return _row(name, points, of, _low, (0.0, 1.0), lambda v: numbers.plain(v, 2), across, ascii_only)


def _loss(points: Sequence[Point], across: Columns, ascii_only: bool) -> Row | None:
    known = [p.loss for p in points if p.loss is not None and math.isfinite(p.loss)]
    if not known:
        return None
    with_loss = [point for point in points if point.loss is not None]
    scale = (min(known) - 1e-12, max(known))
    return _row("loss", with_loss, lambda p: p.loss, _high, scale, numbers.plain, across, ascii_only)


def _status(points: Sequence[Point], across: Columns, ascii_only: bool) -> Row | None:
    judged = [(point.step, point.status) for point in points if point.status is not None]
    if not judged:
        return None
    steps, known = zip(*judged, strict=True)
    ranks: list[Number] = [float(GRAVEST_FIRST.index(status)) for status in known]
    drawn = across.worst(steps, ranks, _low)
    letters = "".join(" " if rank is None else _letter(GRAVEST_FIRST[int(rank)], ascii_only) for rank in drawn)
    ends = known[0] if known[0] == known[-1] else f"{known[0]} → {known[-1]}"
    return Row("status", letters, ends, status=True)


def _letter(status: Status, ascii_only: bool) -> str:
    """A letter for what is wrong, a tick for what is well."""
    look = STATUSES[status]
    return look.glyph if status == "healthy" and not ascii_only else look.letter


def legend(trajectory: Trajectory, shown: Sequence[Row], width: int, ascii_only: bool) -> str:
    """How to read the rows: scales, letters that occur, and how many points a column stands for."""
    letters = {letter for row in shown if row.status for letter in row.glyphs}
    names = [f"{look.letter} {status}" for status, look in STATUSES.items() if look.letter in letters]
    count = len(leading(trajectory))
    per = f"1 column: worst of {-(-count // width)} points" if count > width else counted(count, "point")
    under = "_" if ascii_only else "·"
    return "; ".join(["tall = more", f"{under} share under 1e-12", per, *names])


def _decades(point: Point, rate: Number) -> Number:
    """What a rate makes of the signal over the needed lag, in powers of ten."""
    lag = point.needed_lag or (point.length or 2) - 1
    return None if rate is None else rate * lag / LN10


def _farthest(points: Sequence[Point]) -> float:
    return float(max((max(p.needed_lag or 1, p.reach or 1) for p in points), default=1))


def _rate(value: Number) -> str:
    return "0" if value is not None and abs(value) < 1e-9 else numbers.plain(value)


def _whole(value: Number) -> str:
    return numbers.MISSING if value is None else f"{value:.0f}"


def _low(values: list[Number]) -> Number:
    known = [value for value in values if value is not None]
    return next((value for value in known if math.isnan(value)), min(known, default=None))


def _high(values: list[Number]) -> Number:
    known = [value for value in values if value is not None]
    return next((value for value in known if math.isnan(value)), max(known, default=None))


def _far(values: list[Number]) -> Number:
    known = [value for value in values if value is not None]
    return next((value for value in known if math.isnan(value)), max(known, key=abs, default=None))


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
    for sentence in run_wording.sentences(trajectory):
        page.wrap(sentence)
    page.blank()
    if trajectory.points:
        _strips(page, trajectory)
        _moves(page, trajectory)
        _table(page, trajectory)
    _facts(page, trajectory)
    _findings(page, trajectory)
    _left_out(page, trajectory)
    codes = [run_wording.code(trajectory), *(verdict.code for verdict in run_wording.findings_of(trajectory))]
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
    known = dict(zip(run_wording.HEADS, run_wording.cells(point), strict=True))
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
    said, heading = f" {run_wording.title(trajectory)}", run_wording.heading(trajectory)
    if page.narrow or measure(page.fold(said)) + 2 + measure(page.fold(heading)) > page.view.width:
        page.line(Span(said, f"bold {style}"))
        page.wrap(heading)
        return
    page.line(Span(said, f"bold {style}"), f"  {heading}")


def _strips(page: Page, trajectory: Trajectory) -> None:
    ends = 0 if page.narrow else ENDS
    width = page.view.width - 2 - LABEL - (ends + 2 if ends else 0)
    drawn = rows(trajectory, width, page.view.ascii)
    points = leading(trajectory) or trajectory.points
    page.line(" " * (LABEL + 1), Span(axis(points, width), "dim"))
    style = STATUSES[trajectory_status(trajectory)].style
    for row in drawn:
        # Letters of the status row are ASCII but for one sign, which has its own stand-in.
        page.line(f" {pad(row.label, LABEL)}", Span(row.glyphs, style), f"  {row.ends}" if ends else "")
    page.wrap(legend(trajectory, drawn, width, page.view.ascii), style="dim")
    page.blank()


def _moves(page: Page, trajectory: Trajectory) -> None:
    told = run_wording.moves(trajectory)
    for head, what in told[: None if page.view.verbose else 4]:
        page.wrap(head, " ◂ ", "bold")
        if what:
            page.wrap(what, "   ")
    if len(told) > 4 and not page.view.verbose:
        page.wrap(f"{len(told) - 4} more changes of status: -v", "   ", "dim")
    page.blank()


def _table(page: Page, trajectory: Trajectory) -> None:
    points = run_wording.telling(trajectory, page.view.steps, page.view.step_range())
    if points:
        heads, rows = run_wording.grid(trajectory, points)
        own = [*run_wording.HEADS[:OPTIONAL], "layer"]
        columns = [
            Column(head, left=head in LEFT, flexible=head in FLEXIBLE, optional=head not in own) for head in heads
        ]
        page.table(columns, [[*row] for row in rows])
    page.blank()


def _facts(page: Page, trajectory: Trajectory) -> None:
    order = f"in order {trajectory.head.order}" if trajectory.head.order else ""
    facts = (run_wording.clipping, run_wording.underflow, run_wording.overhead)
    for said in (order, *(fact(trajectory) for fact in facts)):
        if said:
            page.wrap(said)
    page.blank()


def _findings(page: Page, trajectory: Trajectory) -> None:
    said = run_wording.findings_of(trajectory)
    for verdict in said:
        if verdict == run_wording.lead(trajectory):
            continue
        page.wrap(verdict.message, f" {report_wording.VERDICT_SIGNS[verdict.status]} {verdict.code}  ")
    for tip in run_wording.tips(trajectory):
        page.wrap(tip, " try: ")
    if page.view.verbose:
        for verdict in trajectory.verdicts:
            if verdict not in said:
                page.wrap(verdict.message, f" {report_wording.VERDICT_SIGNS[verdict.status]} {verdict.code}  ", "dim")
    page.blank()


def _left_out(page: Page, trajectory: Trajectory) -> None:
    for one in trajectory.skipped:
        page.wrap(f"{one.source}: {one.reason}", " skipped: ", "dim")
    for note in trajectory.notes:
        page.wrap(note, " note: ", "dim")
    page.blank()


MARKDOWN_WIDTH = 56


def render_markdown(trajectory: Trajectory, view: View) -> str:
    """A section: verdict, strips, where it changed, the telling points, findings, what was left out."""
    title = f"### {Page(view).fold(run_wording.title(trajectory))}"
    if view.quiet:
        return f"{title}\n"
    return "\n\n".join(block for block in [title, *_blocks(trajectory, view)] if block) + "\n"


def _blocks(trajectory: Trajectory, view: View) -> Iterable[str]:
    yield escaped(run_wording.heading(trajectory), view)
    yield escaped(" ".join(run_wording.sentences(trajectory)), view)
    if trajectory.points:
        yield _strips_block(trajectory, view)
        moved = [" — ".join(part for part in pair if part) for pair in run_wording.moves(trajectory)]
        yield _bullets(moved, view)
        points = run_wording.telling(trajectory, view.steps, view.step_range())
        yield table(*run_wording.grid(trajectory, points), view)
    facts = (run_wording.clipping, run_wording.underflow, run_wording.overhead)
    yield _bullets([said for said in (fact(trajectory) for fact in facts) if said], view)
    found = run_wording.findings_of(trajectory)
    yield _bullets([f"{report_wording.VERDICT_SIGNS[v.status]} {v.code}: {v.message}" for v in found], view)
    yield _bullets([f"try: {tip}" for tip in run_wording.tips(trajectory)], view)
    yield _bullets([f"skipped {one.source}: {one.reason}" for one in trajectory.skipped], view)
    yield _bullets([f"note: {note}" for note in trajectory.notes], view)


def _bullets(lines: list[str], view: View) -> str:
    return "\n".join(f"- {escaped(line, view)}" for line in lines)


def _strips_block(trajectory: Trajectory, view: View) -> str:
    page, drawn = Page(view), rows(trajectory, MARKDOWN_WIDTH, view.ascii)
    points = leading(trajectory) or trajectory.points
    lines = [" " * 10 + page.fold(axis(points, MARKDOWN_WIDTH))]
    lines += [f"{pad(row.label, 9)} {page.fold(row.glyphs)}  {page.fold(row.ends)}".rstrip() for row in drawn]
    lines.append(page.fold(legend(trajectory, drawn, MARKDOWN_WIDTH, view.ascii)))
    return "\n".join(["```text", *lines, "```"])
