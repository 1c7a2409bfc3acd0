"""Anything with `log(dict, step=...)`: a run of trackio, or a function of your own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gradscope.errors import UsageError
from gradscope.monitor.sinks.scalars import finite, scalars
from gradscope.text import safe_text
from gradscope.trajectory import Head, Point, Trajectory


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
