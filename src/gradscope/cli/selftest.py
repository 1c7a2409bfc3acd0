"""`gradscope selftest`: measured against answers that are known exactly."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from gradscope.cli.output import emit
from gradscope.cli.progress import ProgressBar
from gradscope.errors import UsageError
from gradscope.registry import unknown

FORMATS = ("text", "json")


def selftest(
    full: Annotated[bool, typer.Option("--full", help="Longer sequences: tighter limits, about a minute.")] = False,
    format: Annotated[str, typer.Option("--format", help="text or json.")] = "text",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="The last line only.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Where each exact answer comes from.")] = False,
) -> int:
    """Measure what is known exactly: is this installation right?

    Case by case: measured, exact, error, verdict. Exit 1 if one fails.
    """
    if format not in FORMATS:
        raise UsageError(unknown("format", format, FORMATS))
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
