"""`gradscope analyze`: one model."""

from __future__ import annotations

from typing import Annotated, Unpack

import typer

from gradscope.cli.options import RunFlags, spread


@spread(RunFlags)
def analyze(
    model: Annotated[
        str | None,
        typer.Argument(
            help="lstm, lstm:forget_bias=5,hidden=128, a file, or module:attr. Default rnn.", metavar="MODEL"
        ),
    ] = None,
    **flags: Unpack[RunFlags],
) -> int:
    """How far back can this model learn, and why not further?"""
    from gradscope.cli.measure import measure

    return measure([model] if model is not None else None, flags, compare=False)
