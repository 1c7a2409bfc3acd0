"""The table of commands, and the Typer application built from it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from gradscope import __version__
from gradscope.registry import load

COMMANDS: Mapping[str, str] = {
    "analyze": "gradscope.cli.measure:analyze",
    "compare": "gradscope.cli.measure:compare",
    "probe": "gradscope.cli.measure:probe",
    "sweep": "gradscope.cli.sweep:sweep",
    "check": "gradscope.cli.check:check",
    "track": "gradscope.cli.track:track",
    "show": "gradscope.cli.show:show",
    "lesson": "gradscope.cli.learn:lesson",
    "explain": "gradscope.cli.learn:explain",
    "rules": "gradscope.cli.learn:rules",
    "init": "gradscope.cli.project:init",
    "config": "gradscope.cli.project:config",
    "doctor": "gradscope.cli.project:doctor",
    "selftest": "gradscope.cli.learn:selftest",
    "schema": "gradscope.cli.project:schema",
}

COMPLETION = "_GRADSCOPE_COMPLETE"
"""The variable by which a shell asks for completions: of the options of every command."""

SUMMARIES: Mapping[str, str] = {
    "analyze": "How far back can this model learn, and why not further?",
    "compare": "Which of these models still hears the first step?",
    "probe": "Does it learn at that lag? Short trainings of copies, beside a twin known to learn.",
    "sweep": "Where in the space of settings does the gradient flow?",
    "check": "Did this commit break gradient flow? Exit code 1 if so.",
    "track": "When, in this training, was the past lost? From its checkpoints.",
    "show": "Render a saved report, sweep or training run again, in any format.",
    "lesson": "Why did attention replace recurrences? Measured on one sentence.",
    "explain": "What a rule means: the maths, its limits, remedies, papers.",
    "rules": "List the rules: code, severity and what each finds.",
    "init": "Find recurrent modules in this folder and write targets of check.",
    "config": "Print every setting with its value and where it came from.",
    "doctor": "Show versions and devices, and warn of what could go wrong.",
    "selftest": "Measure what is known exactly: is this installation right?",
    "schema": "Print the JSON Schema of the report format.",
}
"""What the list of commands says of each, so that it is shown without importing any of them."""


def build(words: Sequence[str] = ()) -> typer.Typer:
    """The application, with the one command that is asked for; where none is, with the names and summaries of all.

    Args:
        words: the command line. Where it begins with a command, no other is loaded, and the help of its many options
            is laid out in panels; the list of commands needs none, and does not wait for rich.
    """
    first = next((word for word in words if not word.startswith("-")), "")
    named = [first] if first in COMMANDS else []
    app = typer.Typer(
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
        rich_markup_mode="rich" if named else None,
    )
    app.callback()(_root)
    for name in named or COMMANDS:
        if named or COMPLETION in os.environ:
            app.command(name)(load(COMMANDS[name]))
        else:
            app.command(name, help=SUMMARIES[name])(_listed)
    return app


def _listed() -> None:
    """A command in a list of all of them; which one runs is known before it is loaded."""


def _version(asked: bool) -> None:
    if asked:
        from gradscope.cli.output import emit

        emit(f"gradscope {__version__}\n")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; works after any command too.")
    ] = False,
) -> None:
    """How far back in time a sequence model can learn, why not further, and what to do about it."""
