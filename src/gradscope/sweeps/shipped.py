"""The user's files on their way to the workers of a cluster: those that settings name below the working folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from gradscope.config.words import parse_model
from gradscope.errors import UsageError
from gradscope.sweeps.plan import Plan, named_files
from gradscope.text import safe_text

MOST = 100 * 2**20
"""Bytes; more belongs on a disk that all machines see."""


def collected(plan: Plan) -> dict[str, bytes]:
    """Path from the working folder -> content, of every file that the runs of `plan` name.

    With a source file come those beside it, with a module its whole package, for they may import each other. Paths
    that are absolute or lead upwards are left alone: the workers must see them as they are.

    Raises:
        UsageError: too much to be sent.
    """
    found: dict[str, bytes] = {}
    total = 0
    for path in sorted({os.path.normpath(path) for name in _named(plan) for path in _with(name)}):
        if os.path.isabs(path) or path.startswith(".."):
            continue
        total += os.path.getsize(path)
        if total > MOST:
            raise UsageError(
                f"the files of this sweep are more than {MOST // 2**20} MiB (with '{safe_text(path)}'); put them on a "
                "disk that all workers see, and name them by their absolute paths"
            )
        found[path] = Path(path).read_bytes()
    return found


def token_of(files: dict[str, bytes]) -> str:
    """Equal for equal files."""
    total = hashlib.sha256()
    for path, content in sorted(files.items()):
        total.update(f"{path}\0{len(content)}\0".encode())
        total.update(content)
    return total.hexdigest()[:16]


def unpack(files: dict[str, bytes], folder: Path) -> None:
    """Lay the files into a folder as they lay in the working folder."""
    for path, content in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    folder.mkdir(parents=True, exist_ok=True)


def _named(plan: Plan) -> Iterator[str]:
    """Files of every value of every axis, the other axes at their first."""
    first = tuple(axis.values[0] for axis in plan.axes)
    yield from named_files(plan.spec(first, plan.seeds[0]))
    for place, axis in enumerate(plan.axes):
        for value in axis.values:
            yield from named_files(plan.spec((*first[:place], value, *first[place + 1 :]), plan.seeds[0]))
    for word in plan.base.models:
        module = word.rpartition(":")[0]
        if not parse_model(word).is_family and module and all(part.isidentifier() for part in module.split(".")):
            yield from (str(Path(folder, module.split(".")[0])) for folder in (*plan.base.import_path, "."))


def _with(name: str) -> Iterable[str]:
    """A file and what belongs to it; nothing for what is none."""
    path = Path(name)
    if path.is_dir():
        return [str(file) for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    if not path.is_file():
        return []
    return [str(file) for file in path.parent.glob("*.py")] if path.suffix == ".py" else [name]
