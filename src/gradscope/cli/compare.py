"""`gradscope compare`: several models on the same sequence and seed."""

from __future__ import annotations

from typing import Annotated, Unpack

import typer

from gradscope.cli.options import RunFlags, spread


@spread(RunFlags)
def compare(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="What analyze takes: rnn lstm attention.", metavar="MODEL..."),
    ] = None,
    **flags: Unpack[RunFlags],
) -> int:
    """Which of these models still hears the first step?

    Side by side, on the same sequence and seed.
    """
    from gradscope.cli.measure import measure

    return measure(models, flags, compare=True)
