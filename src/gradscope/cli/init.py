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

KEYS: dict[str, tuple[str, ...]] = {"pyproject.toml": ("tool", "gradscope"), "gradscope.toml": ()}
"""Where settings lie in each file."""
BOM = "\ufeff"
"""Notepad begins a file with it."""


def init(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be written, and write nothing.")] = False,
) -> int:
    """Find recurrent modules in this folder and write targets of check."""
    from gradscope.gate.discover import recurrent_modules
    from gradscope.gate.starter import starter

    folder = Path.cwd()
    path = folder / "pyproject.toml" if (folder / "pyproject.toml").is_file() else folder / "gradscope.toml"
    # Both files are read, so both may hold targets.
    before = {name: _before(folder / name, key) for name, key in KEYS.items()}[path.name]
    key = KEYS[path.name]
    found = recurrent_modules(folder)
    tables = starter(found, key)
    if dry_run:
        emit(tables)
        return 0
    write_file(path, _extended(path, before, tables))
    what = (
        f"{len(found)} recurrent module{'s' if len(found) != 1 else ''}" if found else "no recurrent module: an example"
    )
    if sys.stderr is not None:
        print(f"found {what}; written to {path.name}; next: gradscope check", file=sys.stderr)
    return 0


def _extended(path: Path, before: str, tables: str) -> bytes:
    """What was there, every byte of it, and the tables behind it with the same line ends.

    Raises:
        UsageError: together they are no TOML, as where `gradscope = {...}` cannot be added to.
    """
    ends = "\r\n" if "\r\n" in before else "\n"
    gap = "" if not before.strip() else ends if before.endswith("\n") else 2 * ends
    text = before + gap + tables.replace("\n", ends)
    try:
        tomllib.loads(text.removeprefix(BOM))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(
            f"tables cannot be added to {path.name} as it is ({safe_text(error)}); write its [tool.gradscope] as a "
            "table of its own, or add what gradscope init --dry-run shows by hand"
        ) from None
    return text.encode()


def _before(path: Path, key: tuple[str, ...]) -> str:
    """What the file holds so far, line ends as they are; targets that somebody has written are left alone."""
    if not path.exists():
        return ""
    try:
        text = path.read_bytes().decode()
        content = tomllib.loads(text.removeprefix(BOM))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read {path.name}: {safe_text(error)}; correct it first") from None
    for part in key:
        content = content.get(part, {}) if isinstance(content, dict) else {}
    if isinstance(content, dict) and "targets" in content:
        raise UsageError(f"{path.name} has targets already; edit them, or see more with gradscope init --dry-run")
    return text
