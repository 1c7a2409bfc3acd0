"""`gradscope track`: a training run from its checkpoints; with --follow again and again."""

from __future__ import annotations

import gc
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Unpack, cast

import typer

from gradscope.cli.measure import ONLY_SCREEN, refuse_remedies
from gradscope.cli.options import RunFlags, ScreenFlags, option, spread
from gradscope.cli.output import Output, aside, emit, plan, written
from gradscope.cli.progress import ProgressBar
from gradscope.config import build_spec
from gradscope.config.words import model_file
from gradscope.errors import UsageError
from gradscope.gate.training_run import verdicts_at_end
from gradscope.records import RunSpec
from gradscope.registry import FLOW_FORMATS
from gradscope.verdicts import fails

if TYPE_CHECKING:
    from gradscope.monitor.track_checkpoints import Track
    from gradscope.trajectory import Point


OWN = ("module", "follow", "interval")
PATIENCE = 5.0
"""Seconds between two looks at a growing folder."""


def track_runs(runs: list[str], flags: TrackFlags) -> int:
    """Analyse the checkpoints, write, and return the exit code.

    Raises:
        UsageError: the request cannot be carried out.
    """
    refuse_remedies(flags, "track")
    spec, interval = _spec(runs, flags), _interval(flags.get("interval"), flags.get("follow"))
    screen = cast(ScreenFlags, {name: flags.get(name) for name in ScreenFlags.__annotations__})
    inputs = (spec.input, spec.target, spec.vocab, spec.state, *runs)
    output = plan(screen, os.environ, inputs=inputs, formats=FLOW_FORMATS)
    from gradscope.monitor.track_checkpoints import Track

    gc.freeze()
    gc.enable()
    with ProgressBar(quiet=bool(flags.get("quiet"))) as progress:
        track = Track(runs, spec, module=flags.get("module"), progress=progress)
        if flags.get("follow"):
            _follow(track, output, interval, progress)
        if not track.points:
            with aside():
                track.look()
    trajectory = track.trajectory
    found = (*verdicts_at_end(trajectory, spec), *trajectory.verdicts)
    return output.write(trajectory, int(fails(found, spec.fail_on)))


def _spec(runs: list[str], flags: TrackFlags) -> RunSpec:
    """Settings as for analyze; the model is the module, or else a file that each checkpoint takes the place of."""
    settings = {name: value for name, value in flags.items() if name not in ONLY_SCREEN and name not in OWN}
    if settings.get("weights") is not None:
        raise UsageError("--weights names one file; name the checkpoints themselves, and --module file.py:attr")
    name = f"./{Path(runs[0]).name or runs[0]}"
    model = flags.get("module") or (name if model_file(name) is not None else f"{name}/*.pt")
    return build_spec({"models": [model], **settings}, cwd=Path.cwd(), environ=os.environ).spec


def _interval(seconds: float | None, follow: bool | None) -> float:
    if seconds is not None and not follow:
        raise UsageError(f"--interval {seconds:g} is between two looks, and there is one; add --follow")
    if seconds is not None and not 0 < seconds < 1e6:
        raise UsageError(f"--interval is {seconds:g}; give a number of seconds above 0")
    return PATIENCE if seconds is None else seconds


def _follow(track: Track, output: Output, interval: float, progress: ProgressBar) -> None:
    """Look again and again, with a line for each checkpoint, until Ctrl-C."""
    try:
        while True:
            if _look(track, output, progress):
                written(output.writes(track.trajectory)[:-1], 0)
            time.sleep(interval)
    except KeyboardInterrupt:
        progress.pause()
        if output.format == "text" and sys.stdout is not None:
            emit("\n")


def _look(track: Track, output: Output, progress: ProgressBar) -> int:
    """As `look`, with a line for each checkpoint, where nothing yet is no error: the folder may still be empty."""
    with aside() as shown:

        def told(point: Point) -> None:
            with shown():
                _tell(output, progress, point)

        try:
            return track.look(told)
        except UsageError:
            return 0


def _tell(output: Output, progress: ProgressBar, point: Point) -> None:
    if output.format == "text" and not output.view.quiet:
        from gradscope.renderers.run_screen import point_line

        progress.pause()
        emit(point_line(point, output.view))


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
    return track_runs(runs, flags)
