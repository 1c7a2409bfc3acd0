"""Formats that CI services read: annotations of GitHub, JUnit XML, SARIF 2.1.0."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from gradscope.records import Location, ModelResult, Report, Verdict
from gradscope.renderers import check_screen, report_wording
from gradscope.renderers.styled_text import Page
from gradscope.renderers.view import View
from gradscope.verdicts import fails

MOST_NOTES = 10
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


def github(report: Report, view: View) -> str:
    """Annotations for GitHub Actions: workflow commands that a run's page and a pull request's files show.

    GitHub shows ten of a kind per step, so the worst ten are written, and how many there are beside them.

    `::error title=...,file=...,line=...::...` for every finding, worst first, then a notice with the sum.
    """
    notes = sorted(_notes(report), key=lambda note: note.level != "error")
    lines = [_github_command(note, view) for note in notes[:MOST_NOTES]]
    about = report.check.notes if report.check is not None else ()
    lines += [f"::notice title=gradscope::{_escaped(note, DATA, view)}" for note in about[:MOST_NOTES]]
    more = f"; {len(notes) - MOST_NOTES} more findings are not shown here" if len(notes) > MOST_NOTES else ""
    lines.append(f"::notice title=gradscope::{_escaped(_sum(report) + more, DATA, view)}")
    return "\n".join(lines) + "\n"


def _notes(report: Report) -> Iterator[Note]:
    for model in report.models:
        for verdict in check_screen.findings(model):
            if not verdict.accepted:
                level = "error" if verdict.status == "fail" else "warning"
                place = verdict.location or model.loaded.location
                yield Note(level, verdict.code, verdict.title, _github_message(model, verdict), place)


def _github_message(model: ModelResult, verdict: Verdict) -> str:
    said = " ".join(report_wording.sentences(model)) if verdict is report_wording.deciding(model) else verdict.message
    return f"{model.name}: {said}" + (f"\ntry: {verdict.advice}" if verdict.advice else "")


def _sum(report: Report) -> str:
    if report.check is not None:
        return check_screen.counts(check_screen.rows(report))
    return ", ".join(f"{model.name} {model.status}" for model in report.models) or "nothing was measured"


def _github_command(note: Note, view: View) -> str:
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


UNMEASURED = "GS901"
"""A target that gave no result is an error of the test, not a failure of what it tests."""


def junit(report: Report, view: View) -> str:
    """JUnit XML, which CI services show as tests: a suite per target, a case per rule.

    Only what Jenkins' schema (junit-10.xsd, as pytest's xunit2) allows: no file and line of a case, so messages name
    them.

    One document; what makes the gate fail are failures, accepted findings and skipped rules are skipped cases.
    """
    root = Element("testsuites", name="gradscope")
    levels = {row.model.name: row.target.spec.fail_on for row in check_screen.rows(report)}
    suites = [
        _suite(root, model, levels.get(model.name, "error"), report.timing.models.get(model.name), view)
        for model in report.models
    ]
    for count in ("tests", "failures", "errors"):
        root.set(count, str(sum(int(suite.get(count, "0")) for suite in suites)))
    root.set("time", f"{report.timing.total:.3f}")
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'


def _suite(root: Element, model: ModelResult, fail_on: str, seconds: float | None, view: View) -> Element:
    name = Page(view).fold(model.name)
    suite = SubElement(root, "testsuite", name=name, tests=str(len(model.verdicts)))
    for verdict in model.verdicts:
        _case(suite, model, verdict, fail_on, view)
    for count, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(count, str(len(suite.findall(f"testcase/{tag}"))))
    suite.set("time", f"{seconds or 0.0:.3f}")
    return suite


def _case(suite: Element, model: ModelResult, verdict: Verdict, fail_on: str, view: View) -> None:
    page = Page(view)
    classname = f"gradscope.{page.fold(model.name)}"
    case = SubElement(suite, "testcase", classname=classname, name=page.fold(f"{verdict.code} {verdict.title}"))
    message = page.fold(verdict.message)
    if verdict.accepted:
        SubElement(case, "skipped", message=f"accepted by baseline: {message}")
    elif fails([verdict], fail_on):
        tag = "error" if verdict.code == UNMEASURED else "failure"
        advice = f"\ntry: {page.fold(verdict.advice)}" if verdict.advice else ""
        where = f"{page.fold(place)}: " if (place := check_screen.place(model)) else ""
        SubElement(case, tag, type=page.fold(verdict.code), message=message).text = where + message + advice
    elif verdict.status in ("skip", "inconclusive"):
        SubElement(case, "skipped", message=message)
    elif verdict.status != "pass":
        SubElement(case, "system-out").text = f"warning: {message}"


SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
LEVELS = {"fail": "error", "warn": "warning"}


def sarif(report: Report, view: View) -> str:
    """SARIF 2.1.0, which code scanning services read: a result per finding, at the place where the model is defined.

    One run; results carry a fingerprint of target and rule, not of numbers, so that they are the same next time.
    """
    found = [(model, verdict) for model in report.models for verdict in check_screen.findings(model)]
    rules = {verdict.code: verdict for _, verdict in found}
    codes = sorted(rules)
    driver = {
        "name": "gradscope",
        "version": report.environment.get("gradscope", "unknown"),
        "rules": [_sarif_rule(rules[code], view) for code in codes],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [_sarif_result(model, verdict, codes.index(verdict.code), view) for model, verdict in found],
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _sarif_rule(verdict: Verdict, view: View) -> dict[str, Any]:
    page = Page(view)
    title = page.fold(verdict.title)
    return {
        "id": page.fold(verdict.code),
        "shortDescription": {"text": title},
        "help": {"text": f"gradscope explain {page.fold(verdict.code)}"},
        "defaultConfiguration": {"level": verdict.severity},
    }


def _sarif_result(model: ModelResult, verdict: Verdict, index: int, view: View) -> dict[str, Any]:
    page = Page(view)
    advice = f" Try: {verdict.advice}" if verdict.advice else ""
    found: dict[str, Any] = {
        "ruleId": page.fold(verdict.code),
        "ruleIndex": index,
        "level": LEVELS[verdict.status],
        "message": {"text": page.fold(f"{model.name}: {verdict.message}{advice}")},
        "locations": [_location(model, verdict, view)],
        "partialFingerprints": {"gradscope/v1": _fingerprint(model, verdict)},
    }
    if verdict.accepted:
        found["suppressions"] = [{"kind": "external", "justification": "accepted by the baseline of gradscope check"}]
    return found


def _location(model: ModelResult, verdict: Verdict, view: View) -> dict[str, Any]:
    """The target by name, and the file that defines it where there is one."""
    name = Page(view).fold(model.name)
    found: dict[str, Any] = {"logicalLocations": [{"name": name, "kind": "member"}]}
    location = verdict.location or model.loaded.location
    if location is not None:
        physical: dict[str, Any] = {"artifactLocation": {"uri": quote(location.file, errors="replace")}}
        if location.line is not None:
            physical["region"] = {"startLine": max(1, location.line)}
        found["physicalLocation"] = physical
    return found


def _fingerprint(model: ModelResult, verdict: Verdict) -> str:
    text = "\n".join([model.name, verdict.code, verdict.title])
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:32]
