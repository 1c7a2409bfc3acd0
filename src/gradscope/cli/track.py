"""`gradscope track`: a training run from its checkpoints."""

from __future__ import annotations

from typing import Annotated, Unpack

import typer

from gradscope.cli.options import RunFlags, option, spread


class TrackFlags(RunFlags, total=False):
    """The settings of a run, and how its checkpoints are read."""

    module: Annotated[
        str | None, option("Your own model", "The module that the checkpoints fill: file.py:attr.", "--module")
    ]
    follow: Annotated[bool, option("Output", "Go on as checkpoints are written; Ctrl-C ends it.", "--follow", "-f")]
    interval: Annotated[float | None, option("Output", "Seconds between two looks. Default 5.", "--interval")]


@spread(TrackFlags)
def track(
    runs: Annotated[
        list[str],
        typer.Argument(help="Checkpoints, folders of them, or quoted patterns: 'ckpt/*.pt'.", metavar="RUN..."),
    ],
    **flags: Unpack[TrackFlags],
) -> int:
    """When, in this training, was the past lost? From its checkpoints."""
    from gradscope.cli.tracking import track_runs

    return track_runs(runs, flags)
