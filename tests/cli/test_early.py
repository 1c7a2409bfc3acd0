"""Verdict, sentence and picture are on a terminal before the spectra are measured."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

SEEN = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def watched(folder: Path, *words: str) -> str:
    """What a person sees who runs the command in a terminal, escapes taken away."""
    main, end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "gradscope", *words],
        stdin=end,
        stdout=end,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
    )
    os.close(end)
    parts = []
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:
            break
        if not part:
            break
        parts.append(part)
    assert process.wait() == 0
    return SEEN.sub("", b"".join(parts).decode().replace("\r\n", "\n"))


def test_the_screen_in_two_parts_is_the_screen(tmp_path: Path) -> None:
    words = ["analyze", "rnn:hidden=8", "--length", "40", "--width", "80", "--color", "never"]
    whole = subprocess.run(
        [sys.executable, "-m", "gradscope", *words], capture_output=True, encoding="utf-8", check=True, cwd=tmp_path
    ).stdout
    seen = watched(tmp_path, *words)
    assert seen == whole
    assert seen.count("VANISHING") == 1


def test_a_verdict_that_spectra_may_change_waits_for_them(tmp_path: Path) -> None:
    seen = watched(tmp_path, "analyze", "lstm:forget_bias=5,hidden=8", "--length", "20", "--color", "never")
    assert seen.count("healthy") == 1
