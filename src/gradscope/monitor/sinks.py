"""Where the points of a training run go as they are measured: lines of JSON, TensorBoard, `log(dict, step=...)`."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Protocol, TextIO
from weakref import WeakSet

import torch

from gradscope.atomic import unwritable
from gradscope.errors import UsageError
from gradscope.flow_file import line_of
from gradscope.profile import Profile
from gradscope.records import Number
from gradscope.registry import SINKS, resolve
from gradscope.text import safe_text
from gradscope.trajectory import Head, Point, Trajectory

try:
    import fcntl
except ImportError:  # Windows: files are told apart within one process only
    fcntl = None  # type: ignore[assignment]

_WRITING: WeakSet[JsonlSink] = WeakSet()
"""Those of this process whose file is open."""


class JsonlSink:
    """The file that `gradscope show` reads; `path` is where it came to be."""

    def __init__(self, path: Path, append: bool = False) -> None:
        """Open the file, or `flow-2.jsonl` beside `flow.jsonl` where another monitor is writing that one.

        Args:
            path: where.
            append: go on in what is there, instead of writing it anew.

        Raises:
            UsageError: it cannot be written.
        """
        for number in count(1):
            self.path = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
            try:
                # Emptied only when it is ours: another monitor may be in the middle of it.
                self._file: TextIO = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
            except OSError as error:
                raise unwritable(self.path, error) from error
            self._name = os.path.realpath(self.path)
            if self._is_free():
                break
            self._file.close()
        _WRITING.add(self)
        if append and _ends_within_a_line(self.path):
            self._file.write("\n")
        elif not append and self.path.is_file():
            self._file.truncate(0)

    def _is_free(self) -> bool:
        """Whether no other monitor writes it, of this process or of another; if so it is taken."""
        if not self.path.is_file():
            return True  # a device or a pipe
        if any(one._name == self._name for one in _WRITING):
            return False
        if fcntl is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            except OSError:
                return True  # a file system without locks
        return True

    def begin(self, head: Head) -> None:
        """The first line."""
        self._line(line_of(head))

    def point(self, point: Point) -> None:
        """A line."""
        self._line(line_of(point))

    def note(self, text: str) -> None:
        """A line."""
        self._line(line_of(text))

    def end(self, trajectory: Trajectory) -> None:
        """The overhead, where it is known; then the file is closed."""
        if trajectory.overhead is not None:
            self._line(line_of(trajectory.overhead))
        _WRITING.discard(self)
        if fcntl is not None:
            # A process that was forked meanwhile would hold the lock for as long as it lives.
            with suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_UN)
        self._file.close()

    def _line(self, line: str) -> None:
        self._file.write(line)
        self._file.flush()


def _ends_within_a_line(path: Path) -> bool:
    """Whether the run before was cut off while it wrote."""
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


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


class Sink(Protocol):
    """What a monitor calls."""

    def begin(self, head: Head) -> None:
        """A run begins."""

    def point(self, point: Point) -> None:
        """Something was measured."""

    def note(self, text: str) -> None:
        """Something is to be said."""

    def end(self, trajectory: Trajectory) -> None:
        """The run is over."""


def sinks_of(log: str | Path | None, given: Sequence[Any], append: bool) -> list[Sink]:
    """The JSONL file, and a sink for each thing given: a name of the table, a writer of TensorBoard, or a logger.

    Raises:
        UsageError: an unknown name, a library that is not installed, or a file that cannot be written.
    """
    made: list[Sink] = [] if log is None else [JsonlSink(Path(log), append)]
    return made + [_sink(one) for one in given]


def _sink(thing: Any) -> Sink:
    if isinstance(thing, str):
        made: Sink = resolve(SINKS, thing, "sink")()
        return made
    if all(hasattr(thing, name) for name in ("begin", "point", "note", "end")):
        own: Sink = thing
        return own
    if hasattr(thing, "add_scalar"):
        return TensorBoardSink(thing)
    if hasattr(thing, "define_metric"):
        return WandbSink(thing)
    return LoggerSink(thing)


IMAGE_FLOOR = -12.0
"""log10 of the influence, relative to lag 1, that is drawn black."""
LEAST = 240
"""Pixels that an image has a side, at least."""


class TensorBoardSink:
    """`sinks=["tensorboard"]` writes to `runs/`; hand over a SummaryWriter for another place."""

    def __init__(self, writer: Any = None) -> None:
        """Use a writer, or make one.

        Raises:
            UsageError: tensorboard is not installed.
        """
        if writer is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise UsageError("the sink 'tensorboard' needs the extra [tensorboard]") from error
            writer = SummaryWriter()
        self._writer = writer

    def begin(self, head: Head) -> None:
        """The run's name."""
        self._writer.add_text("gradscope/run", head.name)

    def point(self, point: Point) -> None:
        """Its numbers."""
        for name, value in finite(scalars(point)).items():
            self._writer.add_scalar(name, value, point.step)

    def note(self, text: str) -> None:
        """As text."""
        self._writer.add_text("gradscope/notes", text)

    def end(self, trajectory: Trajectory) -> None:
        """The images: a band per lag that was kept, a column per point; signals and whole analyses have one each."""
        last = trajectory.points[-1].step if trajectory.points else 0
        for layer, kind in dict.fromkeys((point.layer, point.kind) for point in trajectory.points):
            picture = image([point for point in trajectory.points if (point.layer, point.kind) == (layer, kind)])
            if picture is not None:
                self._writer.add_image(f"gradscope/{layer or 'model'}/influence", picture, last, dataformats="HW")
        self._writer.flush()


def image(points: list[Point]) -> torch.Tensor | None:
    """Influence relative to lag 1 in 0..1, the newest lag on top, (height, width); None where there is nothing.

    Every lag and point is drawn at least so large that the image has `LEAST` pixels a side.
    """
    kept = [point for point in points if len(point.lags) > 1]
    if not kept:
        return None
    lags = max((point.lags for point in kept), key=len)
    columns = []
    for point in kept:
        known = dict(zip(point.lags, point.log10_influence, strict=True))
        reference = Profile(point.lags[-1] + 1, [known.get(lag) for lag in range(point.lags[-1] + 1)]).reference
        columns.append([_brightness(known.get(lag), reference) for lag in lags])
    drawn = torch.tensor(columns).T
    high, wide = (max(1, -(-LEAST // side)) for side in drawn.shape)
    return drawn.repeat_interleave(high, 0).repeat_interleave(wide, 1).contiguous()


def _brightness(value: Number, reference: float) -> float:
    """1 for all that is at least the reference, 0 at `IMAGE_FLOOR` below it, and for what is zero or not known."""
    if value is None or math.isnan(value):
        return 0.0
    return 1 - max(0.0, min(1.0, (value - reference) / IMAGE_FLOOR))
