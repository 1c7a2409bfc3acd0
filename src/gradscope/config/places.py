"""Paths as settings and messages name them: from which folder they count, and what is no path at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from gradscope.registry import FAMILIES, TASKS

LOSSES = ("final", "every", "ce", "mse")
PATHS = ("models", "input", "target", "loss", "task", "vocab", "weights", "import_path", "state")
"""Settings that may name files."""


def names_path(setting: str, value: str) -> bool:
    """Whether a setting's value is for a file; `rnn`, `mse` and `recall` are gradscope's own, whatever lies there."""
    own = {"models": FAMILIES, "loss": LOSSES, "task": TASKS}.get(setting, ())
    return setting in PATHS and bool(value) and value.partition(":")[0] not in own


def is_file_of_numbers(name: str | None) -> bool:
    """Whether an input is a file whose steps have features of their own; a text has tokens."""
    return name is not None and not name.lower().endswith(".txt")


def relative(path: str | Path, start: str | Path) -> str:
    """`path` as seen from the folder `start`, with forward slashes; whole where no way leads there (another drive)."""
    try:
        return Path(os.path.relpath(path, start)).as_posix()
    except ValueError:
        return Path(os.path.abspath(path)).as_posix()


def shown_path(path: Path, cwd: Path, environ: Mapping[str, str]) -> str:
    """`path` as a CI service expects it: from the repository where it says so, else from the working folder."""
    absolute = Path(os.path.abspath(cwd / path))
    workspace = environ.get("GITHUB_WORKSPACE")
    base = Path(os.path.abspath(workspace)) if workspace else cwd
    if not absolute.is_relative_to(base):
        base = cwd
    return relative(absolute, base)
