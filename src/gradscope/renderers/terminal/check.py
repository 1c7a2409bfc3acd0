"""The `check` screen: a row per target, then what failed and what to do about it, then the sum."""

from __future__ import annotations

from gradscope.records import Report
from gradscope.renderers import checked
from gradscope.renderers.checked import Row
from gradscope.renderers.text import numbers, wording
from gradscope.renderers.text.page import Column, Page, Span
from gradscope.renderers.text.strip import influence_strip
from gradscope.verdicts import STATUSES

COLUMNS = (
    Column("", left=True),
    Column("target", left=True, flexible=True),
    Column("", left=True, flexible=True),
    Column("reach", left=True),
    Column("gain"),
    Column("newest step last", left=True, optional=True),
)
STRIP = 16


def screen(page: Page, report: Report) -> None:
    """Write the whole screen."""
    every = checked.rows(report)
    if page.view.quiet:
        for row in every:
            page.line(Span(f" {row.sign} ", _style(row)), f"{row.target.name}  ", Span(row.said, "bold"))
        return
    page.wrap(checked.shared(report), style="dim")
    page.blank()
    page.table(COLUMNS, [_cells(page, row) for row in every])
    page.blank()
    tips: dict[str, str] = {}
    for row in every:
        if row.outcome != "passed":
            _details(page, row, tips)
    _notes(page, report)
    _sum(page, report, every)


def _cells(page: Page, row: Row) -> list[str | Span]:
    strip = influence_strip(row.model, STRIP, page.view.ascii)
    return [
        Span(row.sign, _style(row)),
        row.target.name,
        Span("accepted by baseline" if row.outcome == "accepted" else row.said, "bold" if row.leading else ""),
        row.reach,
        numbers.gain(row.model.summary.rate),
        Span(strip.glyphs if strip else "", STATUSES[row.model.status].style),
    ]


def _details(page: Page, row: Row, tips: dict[str, str]) -> None:
    """Which model that is and where it is defined, what was found, and what to try."""
    model, word = row.model, row.target.spec.models[0]
    parts = [part for part in (word, checked.place(model)) if part]
    page.line(Span(f" {row.sign} ", _style(row)), Span(row.target.name, "bold"), "  ", Span(" · ".join(parts), "dim"))
    chosen = wording.deciding(model)
    found = checked.findings(model)
    told = found if page.view.verbose else [verdict for verdict in found if verdict.status == "fail"] or found[:1]
    for verdict in told:
        said = " ".join(wording.sentences(model)) if verdict is chosen else verdict.message
        page.wrap(f"{said} Accepted by baseline." if verdict.accepted else said, f"   {verdict.code}  ")
    if row.outcome == "failed":
        # What the gate itself found has two answers: what it is about, and what made it so.
        most = 1 if row.leading is chosen else 2
        for tip in checked.new_tips(row, tips, None if page.view.verbose else most):
            page.wrap(tip, "   try: ")
    page.blank()


def _notes(page: Page, report: Report) -> None:
    for note in checked.notes(report, all_of_them=page.view.verbose > 0):
        page.wrap(note, " note: ", "dim")
    page.blank()


def _sum(page: Page, report: Report, every: list[Row]) -> None:
    codes = [row.leading.code for row in every if row.leading is not None]
    why = f"   why: gradscope explain {codes[0]}" if codes else ""
    page.wrap(f"{checked.counts(every)} in {report.timing.total:.1f} s{why}", style="bold")


def _style(row: Row) -> str:
    failing = row.outcome == "failed" and row.model.status == "healthy"
    return f"bold {STATUSES['non-finite' if failing else row.model.status].style}"
