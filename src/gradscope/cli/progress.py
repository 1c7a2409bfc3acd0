"""The progress bar: on standard error, for people only, and only for work of more than a second."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PATIENCE = 1.0
"""Seconds before a bar appears."""


class ProgressBar:
    """Call it with (label, done, total); it draws nothing unless standard error is a terminal."""

    def __init__(self, quiet: bool = False) -> None:
        self._started = time.monotonic()
        self._wanted = not quiet and sys.stderr is not None and sys.stderr.isatty()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __call__(self, label: str, done: int, total: int) -> None:
        """Note that `done` of `total` parts of the work called `label` are finished."""
        if not self._wanted or time.monotonic() - self._started < PATIENCE:
            return
        if self._bar is None or self._task is None:
            from rich.console import Console
            from rich.markup import escape
            from rich.progress import Progress

            self._escape = escape
            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("", total=total)
            self._bar.start()
        self._bar.update(self._task, description=self._escape(label), completed=done, total=total)

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away, whatever happened."""
        if self._bar is not None:
            self._bar.stop()
