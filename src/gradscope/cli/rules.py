"""`gradscope rules`: the list of rules."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from gradscope.cli.output import emit
from gradscope.errors import UsageError
from gradscope.registry import unknown

FORMATS = ("text", "json")


def rules(
    format: Annotated[str, typer.Option("--format", help="text or json.")] = "text",
) -> int:
    """List the rules: code, severity and what each finds."""
    if format not in FORMATS:
        raise UsageError(unknown("format", format, FORMATS))
    from gradscope.rules.explain import explain_all

    listed = explain_all()
    if format == "json":
        entries = [{"code": code, "severity": severity, "title": title} for code, severity, title in listed]
        emit(json.dumps(entries, indent=2) + "\n", text=False)
    else:
        lines = [f"{code}  {severity:<7}  {title}" for code, severity, title in listed]
        emit("\n".join([*lines, "", "more: gradscope explain CODE", ""]))
    return 0
