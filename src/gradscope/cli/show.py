"""`gradscope show`: a saved report, sweep or training run again, in any format, without tensors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Unpack

import typer

from gradscope.cli.options import SweepScreenFlags, spread
from gradscope.cli.output import plan
from gradscope.registry import FLOW_FORMATS


@spread(SweepScreenFlags)
def show(
    report: Annotated[
        str,
        typer.Argument(
            help="A report (-o FILE.json), a sweep (.db) or a training run (.jsonl), or - for a report on stdin."
        ),
    ],
    **flags: Unpack[SweepScreenFlags],
) -> int:
    """Render a saved report, sweep or training run again, in any format."""
    from gradscope.sweeps.read_sweep import is_sweep

    if is_sweep(report):
        from gradscope.cli.sweep import show_sweep

        return show_sweep(report, flags)
    if _is_flow(report):
        output = plan(flags, os.environ, inputs=(report,), formats=FLOW_FORMATS)
        from gradscope.flow_file import read_flow
        from gradscope.records import RunSpec
        from gradscope.rules.judge import trajectory_with_verdicts

        return output.write(trajectory_with_verdicts(read_flow(report), RunSpec()))
    output = plan(flags, os.environ, inputs=(report,))
    from gradscope.saved import read_report

    return output.write(read_report(report))


def _is_flow(path: str) -> bool:
    """Whether a file is a training run, by its first bytes; what cannot be read is left for reading to complain of."""
    if path == "-" or not Path(path).is_file():
        return path.lower().endswith(".jsonl")
    from gradscope.flow_file import is_flow

    try:
        with open(path, "rb") as file:
            return is_flow(file.read(400)) or path.lower().endswith(".jsonl")
    except OSError:
        return False
