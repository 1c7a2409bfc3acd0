"""SARIF 2.1.0, which code scanning services read: a result per finding, at the place where the model is defined."""

from __future__ import annotations

import hashlib
import json
from typing import Any
from urllib.parse import quote

from gradscope.records import ModelResult, Report, Verdict
from gradscope.renderers import checked
from gradscope.renderers.text.page import Page
from gradscope.renderers.view import View

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
LEVELS = {"fail": "error", "warn": "warning"}


def render(report: Report, view: View) -> str:
    """One run; results carry a fingerprint of target and rule, not of numbers, so that they are the same next time."""
    found = [(model, verdict) for model in report.models for verdict in checked.findings(model)]
    rules = {verdict.code: verdict for _, verdict in found}
    codes = sorted(rules)
    driver = {
        "name": "gradscope",
        "version": report.environment.get("gradscope", "unknown"),
        "rules": [_rule(rules[code], view) for code in codes],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [_result(model, verdict, codes.index(verdict.code), view) for model, verdict in found],
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _rule(verdict: Verdict, view: View) -> dict[str, Any]:
    page = Page(view)
    title = page.fold(verdict.title)
    return {
        "id": page.fold(verdict.code),
        "shortDescription": {"text": title},
        "help": {"text": f"gradscope explain {page.fold(verdict.code)}"},
        "defaultConfiguration": {"level": verdict.severity},
    }


def _result(model: ModelResult, verdict: Verdict, index: int, view: View) -> dict[str, Any]:
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
