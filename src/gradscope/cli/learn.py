"""Commands that teach: `gradscope explain`, `rules`, `lesson` and `selftest`."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from typing import Annotated

import typer

from gradscope.atomic import write_file
from gradscope.cli.output import emit, plan, view
from gradscope.cli.progress import ProgressBar
from gradscope.errors import UsageError
from gradscope.registry import LESSONS, load, unknown
from gradscope.text import safe_text


def explain(
    code: Annotated[str | None, typer.Argument(help="GS101, ...; without one, every rule.", metavar="CODE")] = None,
) -> int:
    """What a rule means: the maths, its limits, remedies, papers."""
    from gradscope.rules.texts import every_rule
    from gradscope.rules.texts import explain as page_of

    emit(_shown("\n".join(page_of(name) for name in ([code] if code is not None else every_rule()))))
    return 0


def _shown(lesson: str) -> str:
    """Laid out for a terminal; the markdown itself for a pipe or a file."""
    if sys.stdout is None or not sys.stdout.isatty():
        return lesson
    from rich.console import Console
    from rich.markdown import Markdown

    look = view({}, os.environ)
    console = Console(width=min(look.width, 100), no_color=not look.colour, force_terminal=True)
    with console.capture() as capture:
        console.print(Markdown(lesson))
    return capture.get()


RULES_FORMATS = ("text", "json")


def rules(
    format: Annotated[str, typer.Option("--format", help="text or json.")] = "text",
) -> int:
    """List the rules: code, severity and what each finds."""
    if format not in RULES_FORMATS:
        raise UsageError(unknown("format", format, RULES_FORMATS))
    from gradscope.rules.texts import explain_all

    listed = explain_all()
    if format == "json":
        entries = [{"code": code, "severity": severity, "title": title} for code, severity, title in listed]
        emit(json.dumps(entries, indent=2) + "\n", text=False)
    else:
        lines = [f"{code}  {severity:<7}  {title}" for code, severity, title in listed]
        emit("\n".join([*lines, "", "more: gradscope explain CODE", ""]))
    return 0


def lesson(
    output: Annotated[
        list[str] | None, typer.Option("--output", "-o", help="Also write FILE: .html (a page) or .txt. Repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of weights and sentences.")] = 0,
    color: Annotated[str | None, typer.Option("--color", help="auto, always or never.")] = None,
    width: Annotated[int | None, typer.Option("--width", help="Columns of the screen.")] = None,
    ascii: Annotated[bool, typer.Option("--ascii", help="No characters outside ASCII.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on the screen, only files.")] = False,
) -> int:
    """Why did attention replace recurrences? Measured on one sentence.

    Trains three small readers on the agreement of a verb with a far subject, and shows which words they still hear.
    """
    planned = plan({"output": output, "color": color, "width": width, "ascii": ascii, "quiet": quiet}, os.environ)
    for path, name in planned.files:
        if name not in LESSONS:
            raise UsageError(f"-o '{safe_text(path)}': a lesson is written as .html or .txt; choose one of these")
    from gradscope.lesson.lesson import give
    from gradscope.renderers.view import View

    gc.freeze()
    gc.enable()
    with ProgressBar(quiet=quiet) as progress:
        found = give(seed, progress=progress)
    for path, name in planned.files:
        write_file(path, load(LESSONS[name])(found, View()).encode())
    if not quiet:
        emit(load(LESSONS["text"])(found, planned.view))
    return 0


SELFTEST_FORMATS = ("text", "json")


def selftest(
    full: Annotated[bool, typer.Option("--full", help="Longer sequences: tighter limits, about a minute.")] = False,
    format: Annotated[str, typer.Option("--format", help="text or json.")] = "text",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="The last line only.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Where each exact answer comes from.")] = False,
) -> int:
    """Measure what is known exactly: is this installation right?

    Case by case: measured, exact, error, verdict. Exit 1 if one fails.
    """
    if format not in SELFTEST_FORMATS:
        raise UsageError(unknown("format", format, SELFTEST_FORMATS))
    from gradscope.selftest import run_selftest
    from gradscope.selftest.run_selftest import CASES, run

    begun = time.perf_counter()
    with ProgressBar(quiet=quiet) as progress:
        outcomes = run(CASES, full, progress)
    seconds = time.perf_counter() - begun
    if format == "json":
        emit(run_selftest.as_json(outcomes, seconds), text=False)
    else:
        emit(run_selftest.text(outcomes, seconds, quiet=quiet, sources=verbose))
    return int(not all(outcome.passed for outcome in outcomes))
