"""The options of `gradscope sweep`: those of every run, what is varied, and how runs are done."""

from __future__ import annotations

from typing import Annotated

from gradscope.cli.options import RunFlags, SweepScreenFlags, option

_SWEEP = "Sweep"


class SweepFlags(RunFlags, SweepScreenFlags, total=False):
    """What is varied, and how runs are done."""

    over: Annotated[
        list[str] | None,
        option(
            _SWEEP, "Axis: forget_bias=0:6:1, hidden=32,64, gain=log:0.1:10:5. Repeatable; more may follow.", "--over"
        ),
    ]
    run: Annotated[str | None, option(_SWEEP, "What is run at each point: analyze.", "--run")]
    jobs: Annotated[
        int | None,
        option(_SWEEP, "Runs at the same time. Default: the cores.", "--jobs", "-j", envvar="GRADSCOPE_JOBS"),
    ]
    threads: Annotated[
        int | None, option(_SWEEP, "Threads of a run, which its last bits depend on. Default 1.", "--threads")
    ]
    timeout: Annotated[
        float | None, option(_SWEEP, "Seconds for one run. Default 600.", "--timeout", envvar="GRADSCOPE_TIMEOUT")
    ]
    retries: Annotated[int | None, option(_SWEEP, "Tries again of a run that was killed. Default 2.", "--retries")]
    retry_failed: Annotated[bool, option(_SWEEP, "Try runs that failed before again.", "--retry-failed")]
    scheduler: Annotated[
        str | None,
        option(_SWEEP, "Dask scheduler: tcp://host:8786, or its file.", "--scheduler", envvar="GRADSCOPE_SCHEDULER"),
    ]
    min_healthy: Annotated[
        str | None, option(_SWEEP, "Exit 1 unless this part of the points is healthy: 0.9 or 90%.", "--min-healthy")
    ]
