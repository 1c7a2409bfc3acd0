"""Weights & Biases: the numbers of each point, into the run that is there, or into a new one."""

from __future__ import annotations

from typing import Any

from gradscope.errors import UsageError
from gradscope.monitor.sinks.scalars import finite, scalars
from gradscope.trajectory import Head, Point, Trajectory

STEP = "gradscope/step"


class WandbSink:
    """`sinks=["wandb"]`, or a run of your own, `sinks=[run]`.

    wandb drops what is logged at a step below its own counter, which counts calls of `log` and not updates. So the step
    of training travels as a number, to which the curves are drawn. Rows of a run of your own are never ended from here:
    each point goes into the row that your next `log` ends, and those that wait are written at the end.
    """

    def __init__(self, run: Any = None) -> None:
        """Use the run given, else the current one, or begin one.

        Raises:
            UsageError: wandb is not installed.
        """
        self._own = False
        if run is None:
            try:
                import wandb
            except ImportError as error:
                raise UsageError("the sink 'wandb' needs the extra [wandb]: pip install wandb") from error
            self._own = wandb.run is None
            run = wandb.run or wandb.init(project="gradscope")
        self._run = run
        self._waiting: list[dict[str, float]] = []
        self._row: int | None = None
        """wandb's counter when a point was last put into a row, and the step of training of that point."""
        self._step: float | None = None

    def begin(self, head: Head) -> None:
        """Draw every curve to the step of training."""
        self._run.define_metric(STEP)
        self._run.define_metric("gradscope/*", step_metric=STEP)

    def point(self, point: Point) -> None:
        """Its numbers; those of one step share a row."""
        values = finite(scalars(point)) | {STEP: float(point.step)}
        if self._waiting and self._waiting[-1][STEP] == point.step:
            self._waiting[-1] |= values
        else:
            self._waiting.append(values)
        if self._own:
            self._write_all()
            return
        # A row takes one step of training: more points of the same, and another where your own log ended the last row.
        row = int(self._run.step)
        if row != self._row or self._waiting[0][STEP] == self._step:
            values = self._waiting.pop(0)
            self._row, self._step = row, values[STEP]
            self._run.log(values, commit=False)

    def note(self, text: str) -> None:
        """Nothing: loggers draw numbers."""

    def end(self, trajectory: Trajectory) -> None:
        """Write what waits, and end the run that was begun here."""
        self._write_all()
        if self._own:
            self._run.finish()

    def _write_all(self) -> None:
        for values in self._waiting:
            self._run.log(values)
        self._waiting = []
