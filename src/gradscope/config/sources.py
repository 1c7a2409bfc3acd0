"""Where settings come from, and under which name an error must mention each."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradscope.config.types import TYPES
from gradscope.errors import UsageError
from gradscope.registry import unknown
from gradscope.text import safe_text

SCREEN = ("format", "color", "width", "ascii", "steps")
"""Settings of the output, which GRADSCOPE_* may name too; the command line reads them itself."""

_FLAGS = {"models": "MODEL", "thresholds": "--threshold", "args": "--arg"}
_PATHS = ("models", "input", "target", "loss", "vocab", "weights", "import_path", "state")


@dataclass(frozen=True)
class Source:
    """The settings one source gives, as written, and how an error should name each."""

    given: dict[str, Any]
    shown: dict[str, str]


def from_flags(flags: Mapping[str, object | None]) -> Source:
    """Flags by field name; None and empty lists stand for flags that were not given."""
    given = {name: value for name, value in flags.items() if value is not None and value not in ([], ())}
    shown = {name: _FLAGS.get(name, "--" + name.replace("_", "-")) for name in given}
    for name in given:
        _known(name, shown[name])
    return Source(given, shown)


def from_environment(environ: Mapping[str, str]) -> Source:
    """GRADSCOPE_<SETTING> variables; an unknown one is an error, an empty one counts as unset."""
    given: dict[str, Any] = {}
    shown: dict[str, str] = {}
    for variable, text in environ.items():
        name = variable.removeprefix("GRADSCOPE_").lower()
        if not variable.startswith("GRADSCOPE_") or name in SCREEN or text == "":
            continue
        _known(name, variable)
        given[name], shown[name] = text, variable
    return Source(given, shown)


def from_files(cwd: Path) -> list[Source]:
    """The settings of the nearest folder upwards that has any, weakest first."""
    for folder in (cwd, *cwd.parents):
        found = []
        for file, table in (("pyproject.toml", ("tool", "gradscope")), ("gradscope.toml", ())):
            path = folder / file
            content = _table(path, table) if path.is_file() else None
            if content is not None:
                found.append(_named(content, path, table, cwd))
        if found:
            return found
    return []


def _table(path: Path, table: tuple[str, ...]) -> dict[str, Any] | None:
    try:
        text = path.read_text(encoding="utf-8")
        if table and table[-1] not in text:
            return None  # somebody else's file: no reason to judge it
        content: Any = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read {safe_text(path)}: {safe_text(error)}; correct or remove it") from error
    for key in table:
        content = content.get(key) if isinstance(content, dict) else None
    if content is not None and not isinstance(content, dict):
        raise UsageError(f"[{'.'.join(table)}] in {safe_text(path)} is not a table; write its settings as name = value")
    return content


def _named(content: Mapping[str, Any], path: Path, table: tuple[str, ...], cwd: Path) -> Source:
    given: dict[str, Any] = {}
    shown: dict[str, str] = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        where = f"{safe_text(path.name)}:{_line(path, table, key)}"
        _known(name, where)
        if name in given:
            raise UsageError(f"{name} is set twice, also as '{safe_text(key)}' ({where}); keep one")
        given[name] = _beside(value, path.parent, cwd) if name in _PATHS else value
        shown[name] = where
    return Source(given, shown)


def _line(path: Path, table: tuple[str, ...], key: str) -> int:
    """The line that sets `key`; tomllib does not say."""
    here: tuple[str, ...] = ()
    name = re.escape(key)
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        header = re.match(r"\s*\[([^\[\]]+)\]", line)
        if header:
            here = tuple(part.strip(" \"'") for part in header[1].split("."))
        if here[: len(table) + 1] == (*table, key) or (
            here == table and re.match(rf"\s*[\"']?{name}[\"']?\s*[=.]", line)
        ):
            return number
    return 1


def _beside(value: Any, folder: Path, cwd: Path) -> Any:
    """A path in a configuration file counts from that file, not from where the command was started."""
    if isinstance(value, list):
        return [_beside(item, folder, cwd) for item in value]
    if not isinstance(value, str) or folder == cwd:
        return value
    path, colon, attribute = value.partition(":")
    if not path or os.path.isabs(path) or not (folder / path).exists():
        return value
    return os.path.relpath(folder / path, cwd) + colon + attribute


def _known(name: str, where: str) -> None:
    if name not in TYPES:
        raise UsageError(f"{unknown('setting', name, TYPES)} ({where})")
