"""Anything with `log(dict, step=...)`, trackio and Weights & Biases: the numbers of each point."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from gradscope.errors import UsageError
from gradscope.text import safe_text
from gradscope.trajectory import Head, Point, Trajectory

FIELDS = ("gradient_share", "reach", "rate", "lyapunov", "below_float32")


def scalars(point: Point) -> dict[str, float]:
    """`gradscope/rnn/reach` and so on. Zero, whose log10 is -inf, and NaN are passed on as they are, not dropped."""
    prefix = "gradscope/" + (f"{point.layer}/" if point.layer else "")
    if point.kind == "analysis" and point.layer:
        prefix += "analysis/"
    found = {name: getattr(point, name) for name in FIELDS}
    found |= {f"gate/{name}": value for name, value in point.gates.items()}
    if point.norms is not None:
        found["log10_norm_raw"] = point.norms.log10_raw
        found["log10_norm_clipped"] = point.norms.log10_clipped
        found["clip_cosine"] = point.norms.cosine
    known = {f"{prefix}{name}": float(value) for name, value in found.items() if value is not None}
    if point.status is not None:
        known[f"{prefix}healthy"] = float(point.status == "healthy")
    return known


def finite(values: dict[str, float], floor: float = -400.0) -> dict[str, float]:
    """The same for a logger that drops or refuses what is not finite: -inf becomes a floor that a curve can show."""
    return {name: floor if value == -math.inf else value for name, value in values.items()}


class LoggerSink:
    """Hands each point's numbers to `thing.log(numbers, step=step)`, or to `thing(numbers, step)`."""

    def __init__(self, thing: Any) -> None:
        """Take a logger.

        Raises:
            UsageError: it is none.
        """
        log = getattr(thing, "log", None)
        if not callable(log) and not callable(thing):
            what = safe_text(type(thing).__name__)
            raise UsageError(f"a sink is a name, a SummaryWriter, or has log(dict, step=...); this is a {what}")
        self._log: Callable[..., Any] = log if callable(log) else lambda values, step: thing(values, step)

    def begin(self, head: Head) -> None:
        """Nothing: the run is the user's."""

    def point(self, point: Point) -> None:
        """Its numbers."""
        values = finite(scalars(point))
        if values:
            self._log(values, step=point.step)

    def note(self, text: str) -> None:
        """Nothing: loggers draw numbers."""

    def end(self, trajectory: Trajectory) -> None:
        """Nothing: the run is the user's."""


class TrackioSink(LoggerSink):
    """`sinks=["trackio"]`."""

    def __init__(self) -> None:
        """Use the current run, or begin one of the project `gradscope`.

        Raises:
            UsageError: trackio is not installed.
        """
        try:
            import trackio
        except ImportError as error:
            raise UsageError("the sink 'trackio' needs the extra [trackio]: pip install trackio") from error
        current = trackio.context_vars.current_run.get()
        self._finish = trackio.finish if current is None else None
        super().__init__(trackio.init(project="gradscope") if current is None else current)

    def end(self, trajectory: Trajectory) -> None:
        """End the run that was begun here."""
        if self._finish is not None:
            self._finish()


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
