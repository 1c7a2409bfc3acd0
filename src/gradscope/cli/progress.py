"""The progress bar: on standard error, for people only, and only for work of more than a second."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PATIENCE = 1.0
"""Seconds before a bar appears."""


class ProgressBar:
    """Call it with (label, done, total); it draws nothing unless standard error is a terminal.

    A total of zero stands for work whose parts cannot be counted: once it is named, the bar appears by itself after a
    second and pulses until there is more to say.
    """

    def __init__(self, quiet: bool = False, *, alone: bool = True) -> None:
        """Start the clock.

        Args:
            quiet: draw nothing.
            alone: whether the bar may appear between two calls, which takes a thread; not where processes are forked.
        """
        self._started = time.monotonic()
        self._wanted = not quiet and sys.stderr is not None and sys.stderr.isatty()
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._lock, self._last, self._shown = threading.Lock(), ("", 0, 0), ("", 0)
        self._timer = threading.Timer(PATIENCE, self._appear) if self._wanted and alone else None

    def __call__(self, label: str, done: int, total: int) -> None:
        """Note that `done` of `total` parts of the work called `label` are finished."""
        if not self._wanted:
            return
        with self._lock:
            self._last = label, done, total
            if time.monotonic() - self._started >= PATIENCE:
                self._draw()

    def pause(self) -> None:
        """Take the bar away, so that something else can be written; the next call brings it back."""
        with self._lock:
            if self._bar is not None:
                self._bar.stop()
            self._bar, self._task, self._shown = None, None, ("", 0)

    def _appear(self) -> None:
        with self._lock:
            if self._wanted and self._last[0]:
                self._draw()

    def _draw(self) -> None:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import Progress

        label, done, total = self._last
        if self._bar is None:
            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._bar.start()
        if self._shown != (label, total):
            # A task that has had a total never goes back to pulsing: new work is a new one.
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task, self._shown = self._bar.add_task(escape(label), total=total or None), (label, total)
        if self._task is not None:
            self._bar.update(self._task, completed=done)

    def __enter__(self) -> ProgressBar:
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away, whatever happened."""
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            self._wanted = False
            if self._bar is not None:
                self._bar.stop()
