"""Lines of JSON, each written out at once: a run that is cut off keeps what it measured."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

from gradscope.atomic import unwritable
from gradscope.flow_file import line_of
from gradscope.trajectory import Head, Point, Trajectory


class JsonlSink:
    """The file that `gradscope show` reads."""

    def __init__(self, path: Path, append: bool = False) -> None:
        """Open the file.

        Args:
            path: where.
            append: go on in what is there, instead of writing it anew.

        Raises:
            UsageError: it cannot be written.
        """
        try:
            self._file: TextIO = open(path, "a" if append else "w", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise unwritable(path, error) from error

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
        self._file.close()

    def _line(self, line: str) -> None:
        self._file.write(line)
        self._file.flush()
