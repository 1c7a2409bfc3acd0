"""Annotations for GitHub Actions: workflow commands that a run's page and a pull request's files show.

GitHub shows ten of a kind per step, so the worst ten are written, and how many there are beside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradscope.records import Location, ModelResult, Report, Verdict
from gradscope.renderers import checked
from gradscope.renderers.text import wording
from gradscope.renderers.text.page import Page
from gradscope.renderers.view import View

MOST = 10
DATA = {"%": "%25", "\r": "%0D", "\n": "%0A"}
PROPERTY = {**DATA, ":": "%3A", ",": "%2C"}


@dataclass(frozen=True)
class Note:
    """One annotation before it is written."""

    level: str
    code: str
    title: str
    message: str
    location: Location | None


def render(report: Report, view: View) -> str:
    """`::error title=...,file=...,line=...::...` for every finding, worst first, then a notice with the sum."""
    notes = sorted(_notes(report), key=lambda note: note.level != "error")
    lines = [_command(note, view) for note in notes[:MOST]]
    about = report.check.notes if report.check is not None else ()
    lines += [f"::notice title=gradscope::{_escaped(note, DATA, view)}" for note in about[:MOST]]
    more = f"; {len(notes) - MOST} more findings are not shown here" if len(notes) > MOST else ""
    lines.append(f"::notice title=gradscope::{_escaped(_sum(report) + more, DATA, view)}")
    return "\n".join(lines) + "\n"


def _notes(report: Report) -> Iterator[Note]:
    for model in report.models:
        for verdict in checked.findings(model):
            if not verdict.accepted:
                level = "error" if verdict.status == "fail" else "warning"
                place = verdict.location or model.loaded.location
                yield Note(level, verdict.code, verdict.title, _message(model, verdict), place)


def _message(model: ModelResult, verdict: Verdict) -> str:
    said = " ".join(wording.sentences(model)) if verdict is wording.deciding(model) else verdict.message
    return f"{model.name}: {said}" + (f"\ntry: {verdict.advice}" if verdict.advice else "")


def _sum(report: Report) -> str:
    if report.check is not None:
        return checked.counts(checked.rows(report))
    return ", ".join(f"{model.name} {model.status}" for model in report.models) or "nothing was measured"


def _command(note: Note, view: View) -> str:
    properties = {"title": f"gradscope ({note.code}) {note.title}"}
    if note.location is not None:
        properties["file"] = note.location.file
        if note.location.line is not None:
            properties["line"] = str(note.location.line)
    given = ",".join(f"{name}={_escaped(value, PROPERTY, view)}" for name, value in properties.items())
    return f"::{note.level} {given}::{_escaped(note.message, DATA, view)}"


def _escaped(text: str, marks: dict[str, str], view: View) -> str:
    """Harmless text, with the line breaks that are ours, and without what would end a property or a command."""
    page = Page(view)
    safe = "\n".join(page.fold(line) for line in text.split("\n"))
    return "".join(marks.get(char, char) for char in safe)
