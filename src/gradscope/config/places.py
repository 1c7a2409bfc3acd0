"""How a place in a file is named to whoever has to change it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def shown_path(path: Path, cwd: Path, environ: Mapping[str, str]) -> str:
    """`path` as a CI service expects it: from the repository where it says so, else from the working folder."""
    absolute = Path(os.path.abspath(cwd / path))
    workspace = environ.get("GITHUB_WORKSPACE")
    base = Path(os.path.abspath(workspace)) if workspace else cwd
    if not absolute.is_relative_to(base):
        base = cwd
    return Path(os.path.relpath(absolute, base)).as_posix()
