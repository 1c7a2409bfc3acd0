"""`gradscope lesson`: why attention replaced recurrences, measured."""

from __future__ import annotations

import gc
import os
from typing import Annotated

import typer

from gradscope.atomic import write_file
from gradscope.cli.output import emit, plan
from gradscope.cli.progress import ProgressBar
from gradscope.errors import UsageError
from gradscope.registry import LESSONS, load
from gradscope.text import safe_text


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
