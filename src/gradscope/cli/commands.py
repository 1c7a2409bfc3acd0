"""The table of commands, and the Typer application built from it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated

import typer

from gradscope import __version__
from gradscope.registry import load

COMMANDS: Mapping[str, str] = {
    "analyze": "gradscope.cli.analyze:analyze",
    "compare": "gradscope.cli.compare:compare",
    "check": "gradscope.cli.check:check",
    "show": "gradscope.cli.show:show",
    "explain": "gradscope.cli.explain:explain",
    "rules": "gradscope.cli.rules:rules",
    "init": "gradscope.cli.init:init",
    "config": "gradscope.cli.config_:config",
    "doctor": "gradscope.cli.doctor:doctor",
    "selftest": "gradscope.cli.selftest:selftest",
    "schema": "gradscope.cli.schema:schema",
}


def build() -> typer.Typer:
    """The application; the commands' modules are light, their work is imported when they run."""
    app = typer.Typer(
        context_settings={"help_option_names": ["-h", "--help"]},
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    app.callback()(_root)
    for name, reference in COMMANDS.items():
        app.command(name)(load(reference))
    return app


def _version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"gradscope {__version__}\n")
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
