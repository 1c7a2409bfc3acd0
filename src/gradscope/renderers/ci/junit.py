"""JUnit XML, which CI services show as tests: a suite per target, a case per rule.

Only what Jenkins' schema (junit-10.xsd, as pytest's xunit2) allows: no file and line of a case, so messages name them.
"""

from __future__ import annotations

from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from gradscope.records import ModelResult, Report, Verdict
from gradscope.renderers import checked
from gradscope.renderers.text.page import Page
from gradscope.renderers.view import View
from gradscope.verdicts import fails

UNMEASURED = "GS901"
"""A target that gave no result is an error of the test, not a failure of what it tests."""


def render(report: Report, view: View) -> str:
    """One document; what makes the gate fail are failures, accepted findings and skipped rules are skipped cases."""
    root = Element("testsuites", name="gradscope")
    levels = {row.model.name: row.target.spec.fail_on for row in checked.rows(report)}
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
        where = f"{page.fold(place)}: " if (place := checked.place(model)) else ""
        SubElement(case, tag, type=page.fold(verdict.code), message=message).text = where + message + advice
    elif verdict.status in ("skip", "inconclusive"):
        SubElement(case, "skipped", message=message)
    elif verdict.status != "pass":
        SubElement(case, "system-out").text = f"warning: {message}"
