"""`gradscope init`: the first targets of a project."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Annotated

import typer

from gradscope.atomic import write_file
from gradscope.cli.output import emit
from gradscope.errors import UsageError
from gradscope.text import safe_text


def init(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be written, and write nothing.")] = False,
) -> int:
    """Find recurrent modules in this folder and write targets of check."""
    from gradscope.gate.discover import recurrent_modules
    from gradscope.gate.starter import starter

    folder = Path.cwd()
    path = folder / "pyproject.toml" if (folder / "pyproject.toml").is_file() else folder / "gradscope.toml"
    key = ("tool", "gradscope") if path.name == "pyproject.toml" else ()
    before = _before(path, key)
    found = recurrent_modules(folder)
    tables = starter(found, key)
    if dry_run:
        emit(tables)
        return 0
    write_file(path, (f"{before.rstrip()}\n\n{tables}" if before.strip() else tables).encode())
    what = (
        f"{len(found)} recurrent module{'s' if len(found) != 1 else ''}" if found else "no recurrent module: an example"
    )
    if sys.stderr is not None:
        print(f"found {what}; written to {path.name}; next: gradscope check", file=sys.stderr)
    return 0


def _before(path: Path, key: tuple[str, ...]) -> str:
    """What the file holds so far; targets that somebody has written are left alone."""
    if not path.exists():
        return ""
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read {path.name}: {safe_text(error)}; correct it first") from None
    for part in key:
        content = content.get(part, {}) if isinstance(content, dict) else {}
    if isinstance(content, dict) and "targets" in content:
        raise UsageError(f"{path.name} has targets already; edit them, or see more with gradscope init --dry-run")
    return text
