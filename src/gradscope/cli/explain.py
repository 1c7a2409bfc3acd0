"""`gradscope explain`: what a rule means."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from gradscope.cli.output import emit, view


def explain(
    code: Annotated[str | None, typer.Argument(help="GS101, ...; without one, every rule.", metavar="CODE")] = None,
) -> int:
    """What a rule means: the maths, its limits, remedies, papers."""
    from gradscope.rules.explain import EVERY
    from gradscope.rules.explain import explain as lesson

    emit(_shown("\n".join(lesson(name) for name in ([code] if code is not None else EVERY))))
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
