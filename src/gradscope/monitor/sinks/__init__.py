"""Where a monitor writes: one file per sink. A sink only ever takes; what it raises is a warning to the monitor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from gradscope.monitor.sinks.jsonl import JsonlSink
from gradscope.monitor.sinks.loggers import LoggerSink
from gradscope.registry import SINKS, resolve
from gradscope.trajectory import Head, Point, Trajectory


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
        from gradscope.monitor.sinks.tensorboard import TensorBoardSink

        return TensorBoardSink(thing)
    if hasattr(thing, "define_metric"):
        from gradscope.monitor.sinks.loggers import WandbSink

        return WandbSink(thing)
    return LoggerSink(thing)
