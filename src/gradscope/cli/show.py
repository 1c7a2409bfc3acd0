"""`gradscope show`: a saved report or sweep again, in any format, without tensors."""

from __future__ import annotations

import os
from typing import Annotated, Unpack

import typer

from gradscope.cli.options import SweepScreenFlags, spread
from gradscope.cli.output import plan


@spread(SweepScreenFlags)
def show(
    report: Annotated[
        str, typer.Argument(help="A report saved with -o FILE.json, a sweep's FILE.db, or - for standard input.")
    ],
    **flags: Unpack[SweepScreenFlags],
) -> int:
    """Render a saved report or sweep again, in any format."""
    from gradscope.sweeps.read import is_sweep

    if is_sweep(report):
        from gradscope.cli.swept import show_sweep

        return show_sweep(report, flags)
    output = plan(flags, os.environ, inputs=(report,))
    from gradscope.saved import read_report

    output.write(read_report(report))
    return 0
