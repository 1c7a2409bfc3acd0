"""`gradscope sweep`: many runs over axes."""

from __future__ import annotations

from typing import Annotated, Unpack

import typer

from gradscope.cli.options import spread
from gradscope.cli.sweep_flags import SweepFlags


@spread(SweepFlags)
def sweep(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="What analyze takes; several are an axis. Axes may stand here too.", metavar="MODEL..."),
    ] = None,
    **flags: Unpack[SweepFlags],
) -> int:
    """Where in the space of settings does the gradient flow?

    A phase diagram over axes; the same command goes on where it stopped.
    """
    from gradscope.cli.swept import run_sweep

    return run_sweep(models or [], flags)
