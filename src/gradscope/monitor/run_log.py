"""What a monitor has measured: kept, written to every sink, and told on the screen when something happens."""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradscope.monitor.sinks import JsonlSink, Sink, sinks_of
from gradscope.records import RunSpec
from gradscope.rules.judge import trajectory_with_verdicts
from gradscope.trajectory import Head, Point, Trajectory, is_cut

RECENT = 400
"""Points that are judged while training goes on; at the end all are."""


class Record:
    """The trajectory so far, and where it goes."""

    def __init__(self, head: Head, log: str | Path | None, sinks: Sequence[Any], screen: bool, append: bool) -> None:
        self.head, self.points, self.notes, self.screen = head, list[Point](), dict[str, None](), screen
        self._sinks = sinks_of(log, sinks, append)
        self._overhead: float | None = None
        self._told: dict[str, str] = {}
        self._codes: set[str] = set()
        self._send("begin", head)
        for sink in self._sinks:
            if isinstance(sink, JsonlSink) and log is not None and sink.path != Path(log):
                self.note(
                    f"another Monitor is writing '{log}'; this one writes '{sink.path}': close() the other, or log="
                )

    @property
    def trajectory(self) -> Trajectory:
        """The same as data, judged."""
        whole = Trajectory(self.head, tuple(self.points), (), tuple(self.notes), self._overhead)
        return trajectory_with_verdicts(whole, RunSpec())

    def point(self, point: Point) -> None:
        """Add a point."""
        self.points.append(point)
        self._send("point", point)
        if self.screen:
            self._tell(point)

    def note(self, text: str) -> None:
        """Add a note, once."""
        if text not in self.notes:
            self.notes[text] = None
            self._send("note", text)
            if self.screen:
                _write(f" note: {text}\n")

    def close(self, overhead: float | None) -> None:
        """Write what is left, and show the run."""
        self._overhead = None if overhead is None else round(overhead, 4)
        trajectory = self.trajectory
        self._send("end", trajectory)
        if self.screen and self.points:
            from gradscope.renderers.run_screen import render
            from gradscope.renderers.view import View

            width = max(20, shutil.get_terminal_size((80, 24)).columns)
            _write("\n" + render(trajectory, View(width=width, ascii=not _is_unicode(), colour=_is_coloured())))

    def _tell(self, point: Point) -> None:
        """A line when a layer's status is another than last told, and each rule of training when it first fires."""
        from gradscope.renderers.run_screen import point_line
        from gradscope.renderers.view import View

        # The newest points are enough to tell what is new, and judging them costs the same however long a run is.
        recent = trajectory_with_verdicts(Trajectory(self.head, tuple(self.points[-RECENT:])), RunSpec())
        fired = [v for v in recent.verdicts if v.status in ("fail", "warn") and v.code not in self._codes]
        view = View(ascii=not _is_unicode(), colour=_is_coloured())
        status = point.status or ""
        # Batches that are shorter than the needed lag are told of once, in a note.
        is_news = self._told.get(point.layer) != status and not (
            point.layer in self._told and is_cut(point, self.head.needed_lag)
        )
        if is_news or any(v.code in ("GS501", "GS502", "GS504") for v in fired):
            self._told[point.layer] = status
            several = len({*self.head.layers, *self._told}) > 1
            _write(point_line(point, view, named=several))
        for verdict in fired:
            # That nothing old was learned from yet is no news while training goes on.
            if verdict.code in ("GS501", "GS502", "GS503", "GS504"):
                self._codes.add(verdict.code)
                _write(f"   {verdict.code}  {verdict.message}\n")

    def _send(self, what: str, content: Any) -> None:
        """To every sink; one that fails is dropped with one warning."""
        for sink in list(self._sinks):
            try:
                getattr(sink, what)(content)
            except Exception as error:  # a sink is somebody else's code, and never worth a training run
                self._sinks.remove(sink)
                warnings.warn(_dropped(sink, error), stacklevel=2)


def _dropped(sink: Sink, error: Exception) -> str:
    return f"gradscope.Monitor: {type(sink).__name__} failed and is left out ({type(error).__name__}: {error})"


def _write(text: str) -> None:
    if sys.stderr is not None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except (OSError, ValueError):
            return


def _is_unicode() -> bool:
    encoding = getattr(sys.stderr, "encoding", None) or "ascii"
    return encoding.lower().replace("-", "").startswith("utf")


def _is_coloured() -> bool:
    return not os.environ.get("NO_COLOR") and sys.stderr is not None and sys.stderr.isatty()
