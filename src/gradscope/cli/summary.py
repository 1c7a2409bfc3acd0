"""The summary that GitHub shows below a run: Markdown, appended to the file that GITHUB_STEP_SUMMARY names."""

from __future__ import annotations

from pathlib import Path

from gradscope.atomic import unwritable
from gradscope.records import Report
from gradscope.registry import RENDERERS, load
from gradscope.renderers.view import View

MOST = 1024 * 1024
"""Bytes; GitHub drops the whole summary of a step that is larger."""
CUT = "\n\n(cut: a summary holds 1 MiB)\n"


def append_summary(path: Path, report: Report) -> None:
    """Append the report as Markdown, as much of it as there is room for.

    Raises:
        UsageError: the file cannot be written.
    """
    content = load(RENDERERS["markdown"])(report, View()).encode()
    try:
        room = MOST - (path.stat().st_size if path.exists() else 0)
        with open(path, "ab", buffering=0) as file:
            file.write(fitting(content, room))
    except OSError as error:
        raise unwritable(path, error) from error


def fitting(content: bytes, room: int) -> bytes:
    """Whole lines of `content` that fit into `room` bytes; fences that the cut left open are closed."""
    if len(content) <= room:
        return content
    ends = b"\n```" + CUT.encode()
    kept = content[: max(0, room - len(ends))]
    kept = kept[: kept.rfind(b"\n") + 1]
    is_open = sum(line.startswith(b"```") for line in kept.splitlines()) % 2
    closed = kept + (ends if is_open else CUT.encode())
    return closed if len(closed) <= room else b""
