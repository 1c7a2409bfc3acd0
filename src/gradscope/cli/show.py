"""`gradscope show`: a saved report again, in any format, without tensors."""

from __future__ import annotations

import os
from typing import Annotated, Unpack

import typer

from gradscope.cli.options import ScreenFlags, spread
from gradscope.cli.output import plan


@spread(ScreenFlags)
def show(
    report: Annotated[str, typer.Argument(help="A report saved with -o FILE.json, or - for standard input.")],
    **flags: Unpack[ScreenFlags],
) -> int:
    """Render a saved report again, in any format."""
    output = plan(flags, os.environ, inputs=(report,))
    from gradscope.saved import read_report

    output.write(read_report(report))
    return 0
