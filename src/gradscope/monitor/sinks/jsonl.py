"""Lines of JSON, each written out at once: a run that is cut off keeps what it measured."""

from __future__ import annotations

import os
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TextIO
from weakref import WeakSet

from gradscope.atomic import unwritable
from gradscope.flow_file import line_of
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
