"""The table of commands, and the Typer application built from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from gradscope import __version__
from gradscope.registry import load

COMMANDS: Mapping[str, str] = {
    "analyze": "gradscope.cli.analyze:analyze",
    "compare": "gradscope.cli.compare:compare",
    "probe": "gradscope.cli.probe:probe",
    "sweep": "gradscope.cli.sweep:sweep",
    "check": "gradscope.cli.check:check",
    "track": "gradscope.cli.track:track",
    "show": "gradscope.cli.show:show",
    "lesson": "gradscope.cli.lesson:lesson",
    "explain": "gradscope.cli.explain:explain",
    "rules": "gradscope.cli.rules:rules",
    "init": "gradscope.cli.init:init",
    "config": "gradscope.cli.config_:config",
    "doctor": "gradscope.cli.doctor:doctor",
    "selftest": "gradscope.cli.selftest:selftest",
    "schema": "gradscope.cli.schema:schema",
}


def build(words: Sequence[str] = ()) -> typer.Typer:
    """The application; the commands' modules are light, their work is imported when they run.

    Args:
        words: the command line. Where it begins with a command, no other is loaded, and the help of its many options
            is laid out in panels; the list of commands needs none, and does not wait for rich.
    """
    named = [word for word in words[:1] if word in COMMANDS]
    app = typer.Typer(
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
        rich_markup_mode="rich" if named else None,
    )
    app.callback()(_root)
    for name in named or COMMANDS:
        app.command(name)(load(COMMANDS[name]))
    return app


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
