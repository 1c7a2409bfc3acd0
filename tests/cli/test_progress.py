"""The progress bar keeps quiet for machines and for quick work."""

from __future__ import annotations

import io
import sys
import time

import pytest

from gradscope.cli import progress
from gradscope.cli.progress import ProgressBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "patience"), [(io.StringIO, 0.0), (Terminal, 60.0)])
def test_nothing_is_drawn_off_a_terminal_or_within_a_second(monkeypatch, stream, patience):
    monkeypatch.setattr(progress, "PATIENCE", patience)
    monkeypatch.setattr(sys, "stderr", stream())
    with ProgressBar() as bar:
        bar("bptt", 1, 10)
    assert sys.stderr.getvalue() == ""


def test_long_work_on_a_terminal_is_shown_and_taken_away(monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with ProgressBar() as bar:
        bar("bptt [bold]", 1, 10)
        bar("bptt [bold]", 5, 10)
    assert "bptt [bold]" in sys.stderr.getvalue()
    assert "\x1b[2K" in sys.stderr.getvalue()


def test_quiet_is_quiet(monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with ProgressBar(quiet=True) as bar:
        bar("bptt", 1, 10)
    assert sys.stderr.getvalue() == ""


def test_work_that_cannot_be_counted_shows_itself_after_a_while(monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", 0.05)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with ProgressBar() as bar:
        bar("forward pass", 0, 0)
        deadline = time.monotonic() + 20
        while "forward pass" not in sys.stderr.getvalue() and time.monotonic() < deadline:
            time.sleep(0.02)
    assert "forward pass" in sys.stderr.getvalue()
    with ProgressBar(alone=False) as bar:
        before = sys.stderr.getvalue()
        bar("check", 0, 0)
        time.sleep(0.2)
    assert sys.stderr.getvalue() == before
