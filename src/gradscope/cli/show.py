"""`gradscope show`: a saved report, sweep or training run again, in any format, without tensors."""

from __future__ import annotations

import os
from typing import Annotated, Unpack

import typer

from gradscope.cli.options import SweepScreenFlags, spread
from gradscope.cli.output import plan
from gradscope.registry import FLOW_FORMATS, SWEEP_FORMATS


@spread(SweepScreenFlags)
def show(
    report: Annotated[
        str,
        typer.Argument(help="A report (-o FILE.json), a sweep (.db) or a training run (.jsonl), or - for stdin."),
    ],
    **flags: Unpack[SweepScreenFlags],
) -> int:
    """Render a saved report, sweep or training run again, in any format."""
    from gradscope.sweeps.read_sweep import is_database, is_sweep, parse_sweep

    if is_database(report):
        from gradscope.cli.sweep import show_sweep

        return show_sweep(report, flags)
    from gradscope.flow_file import is_flow, parse_flow
    from gradscope.saved import content_of, parse_report

    # Read once and whole, and only then told apart: a pipe has no second beginning.
    content, name = content_of(report)
    if is_sweep(content):
        return plan(flags, os.environ, inputs=(report,), formats=SWEEP_FORMATS).write(parse_sweep(content, name))
    if is_flow(content) or report.lower().endswith(".jsonl"):
        from gradscope.records import RunSpec
        from gradscope.rules.judge import trajectory_with_verdicts

        output = plan(flags, os.environ, inputs=(report,), formats=FLOW_FORMATS)
        return output.write(trajectory_with_verdicts(parse_flow(content, name), RunSpec()))
    return plan(flags, os.environ, inputs=(report,)).write(parse_report(content, name))
