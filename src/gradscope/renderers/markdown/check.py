"""A gate as Markdown: a table of targets, and what failed folded away below it, as a comment on a pull request."""

from __future__ import annotations

from collections.abc import Iterable

from gradscope.records import Report
from gradscope.renderers import checked
from gradscope.renderers.checked import Row
from gradscope.renderers.markdown.cells import escaped, prose, table
from gradscope.renderers.text import numbers
from gradscope.renderers.text.page import Page
from gradscope.renderers.view import View

HEADS = ("", "target", "verdict", "reach", "gain per step", "where")


def blocks(report: Report, view: View) -> Iterable[str]:
    """Heading, table, the findings that made targets fail, and notes."""
    every = checked.rows(report)
    if view.quiet:
        yield "\n".join(
            f"- {_sign(row, view)} {escaped(row.target.name, view)}: {escaped(row.said, view)}" for row in every
        )
        return
    failed = any(row.outcome == "failed" for row in every)
    yield f"### {Page(view).fold('✗' if failed else '✓')} gradient flow: {checked.counts(every)}"
    yield escaped(checked.shared(report), view)
    yield table(HEADS, [_cells(row, view) for row in every], view)
    told: dict[str, str] = {}
    yield "\n".join(line for row in every if row.outcome != "passed" for line in _findings(row, told, view))
    notes = report.check.notes if report.check else ()
    yield "\n".join(f"- note: {prose(note, view)}" for note in notes)


def folded(row: Row, body: Iterable[str], view: View) -> Iterable[str]:
    """Everything measured on one target, behind a line to click."""
    yield f"<details><summary><code>{escaped(row.target.name, view)}</code>: all that was measured</summary>"
    yield from body
    yield "</details>"


def _cells(row: Row, view: View) -> list[str]:
    said = f"{row.said} (accepted by baseline)" if row.outcome == "accepted" else row.said
    gain = numbers.gain(row.model.summary.rate)
    return [
        Page(view).fold(row.sign),
        row.target.name,
        said,
        row.reach,
        gain,
        checked.place(row.model) or numbers.MISSING,
    ]


def _findings(row: Row, told: dict[str, str], view: View) -> Iterable[str]:
    for verdict in checked.findings(row.model):
        if verdict.status == "fail" or verdict is row.leading:
            said = f"{verdict.message} Accepted by baseline." if verdict.accepted else verdict.message
            name, code = escaped(row.target.name, view), escaped(verdict.code, view)
            yield f"- {_sign(row, view)} {name} {code}: {prose(said, view)}"
    for tip in checked.new_tips(row, told, 1):
        yield f"  - try: {prose(tip, view)}"


def _sign(row: Row, view: View) -> str:
    return Page(view).fold(row.sign)
