"""`package.module:attr` and `path/to/file.py:attr`: the user's own code, imported because they named it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradscope.errors import UsageError
from gradscope.loading.code.folders import searched
from gradscope.registry import unknown
from gradscope.text import safe_text


def refer(word: str, folders: Sequence[str] = ()) -> Any:
    """What the word names; modules are also looked for in `folders` and in the working directory, last.

    Raises:
        UsageError: it cannot be imported, or has no such attribute.
    """
    place, _, dotted = word.rpartition(":")
    if not place:
        raise UsageError(f"cannot read '{safe_text(word)}' as a model; give a family, a file or file.py:attr")
    found = _import(place, folders)
    for part in dotted.split("."):
        if not hasattr(found, part):
            names = [name for name in vars(found) if not name.startswith("_")] if hasattr(found, "__dict__") else []
            near = unknown("attribute", part, names).partition(" (one of")[0]
            raise UsageError(f"'{safe_text(place)}' has no attribute '{safe_text(part)}': {near}")
        found = getattr(found, part)
    return found


def _import(place: str, folders: Sequence[str]) -> Any:
    path = Path(place)
    if place.endswith(".py") and not path.is_file():
        raise UsageError(f"no file '{safe_text(place)}'; check the path before the last colon")
    own = [str(path.resolve().parent)] if place.endswith(".py") else []
    try:
        with searched([*folders, *own, str(Path.cwd())]):
            return _file(path) if place.endswith(".py") else importlib.import_module(place)
    except (Exception, SystemExit) as error:
        what = f"{type(error).__name__}: {safe_text(error)}"
        raise UsageError(f"cannot import '{safe_text(place)}': {what}; it must import by itself") from error


def _file(path: Path) -> Any:
    found = importlib.util.spec_from_file_location(path.stem, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module
