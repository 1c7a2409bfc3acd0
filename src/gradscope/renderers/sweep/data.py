"""The runs of a sweep as rows, for the forms that programs read."""

from __future__ import annotations

from collections.abc import Iterator

from gradscope.swept import Sweep

STANDARD = ("state", "status", "worst", "seconds", "reason")


def names(sweep: Sweep) -> tuple[str, ...]:
    """The columns: axes, seed, how the run ended, then every number of its summary; no name twice.

    What is told of a run under the name of an axis (the axis `gain` and the gain measured) is `run.gain`.
    """
    axes = tuple(axis.name for axis in sweep.axes)
    told = (*(() if "seed" in axes else ("seed",)), *STANDARD, *sweep.fields)
    return (*axes, *(f"run.{name}" if name in axes else name for name in told))


def rows(sweep: Sweep) -> Iterator[tuple[str | float | None, ...]]:
    """One row for each run, aligned with `names`; what is unknown is None."""
    axes = tuple(axis.name for axis in sweep.axes)
    empty = (None,) * len(sweep.fields)
    for run in sweep.runs:
        seed = () if "seed" in axes else (run.seed,)
        told = (run.state, run.status, run.worst, run.seconds, run.reason or None)
        yield (*sweep.at(run.point), *seed, *told, *(run.values or empty))
