"""Where settings come from, under which name an error must mention each, and on which line of a file it stands."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradscope.config.types import SEPARATED, TYPES
from gradscope.config.words import names_path, relative
from gradscope.errors import UsageError
from gradscope.registry import unknown
from gradscope.text import safe_text

_PART = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_KEY = rf"{_PART}(?:\s*\.\s*{_PART})*"
_HEADER = re.compile(rf"\s*\[{{1,2}}\s*({_KEY})\s*\]")
_ENTRY = re.compile(rf"\s*({_KEY})\s*=")


def line_of(text: str, path: tuple[str, ...]) -> int:
    """The line that sets `path`, `("tool", "gradscope", "seed")`; else the nearest thing that leads to it; else 1.

    A setting inside an inline table is on that table's line; a table that only its parts mention, on the first of
    them.
    """
    here: tuple[str, ...] = ()
    inside, around = 0, 1
    for number, line in enumerate(text.splitlines(), 1):
        found, is_header = _path(line, here)
        if is_header:
            here = found
        if found == path:
            return number
        if found[: len(path)] == path and not inside:
            inside = number
        if found and not is_header and path[: len(found)] == found:
            around = number
    return inside or around


def _path(line: str, here: tuple[str, ...]) -> tuple[tuple[str, ...], bool]:
    header, entry = _HEADER.match(line), _ENTRY.match(line)
    if header:
        return _parts(header[1]), True
    return ((*here, *_parts(entry[1])) if entry else ()), False


def _parts(key: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in re.findall(_PART, key))


SCREEN = ("format", "color", "width", "ascii", "steps", "scheduler")
"""Settings of the output and of where runs are done, which GRADSCOPE_* may name too; the commands read them."""
LIMITS = ("min_reach", "rate", "precision_horizon", "max_drop", "timeout", "min_healthy")
"""What a target of `gradscope check` is held to; on top, for all of them."""
GATE = ("targets", "baseline", "jobs", *LIMITS)
"""Entries of a file that only `gradscope check` reads."""

_FLAGS = {"models": "MODEL", "thresholds": "--threshold", "args": "--arg"}


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
        if not variable.startswith("GRADSCOPE_") or name in (*SCREEN, *GATE) or text == "":
            continue
        _known(name, variable)
        given[name], shown[name] = text, variable
    return Source(given, shown)


def from_files(cwd: Path) -> list[Source]:
    """The settings of the nearest folder upwards that has any, weakest first."""
    return [table.source(cwd, skip=GATE) for table in tables(cwd)]


@dataclass(frozen=True)
class Table:
    """A table of settings in a configuration file."""

    path: Path
    key: tuple[str, ...]
    """Where it is in the file: `("tool", "gradscope")`, or `()` for the file as a whole."""
    content: dict[str, Any]
    text: str
    """The whole file."""

    def where(self, *key: str) -> str:
        """`pyproject.toml:12`: the line of an entry."""
        return f"{safe_text(self.path.name)}:{self.line(*key)}"

    def line(self, *key: str) -> int:
        """The line of an entry, or of the table itself."""
        return line_of(self.text, (*self.key, *key))

    def source(self, cwd: Path, skip: Iterable[str] = ()) -> Source:
        """The settings in it but `skip`, by name.

        Raises:
            UsageError: a name that is no setting, or one that is there twice.
        """
        given: dict[str, Any] = {}
        shown: dict[str, str] = {}
        for key, value in self.content.items():
            name = key.replace("-", "_")
            if name in skip:
                continue
            where = self.where(key)
            if name == "probe" and isinstance(value, dict):
                given |= {"probe": True, **_probe(value, where)}
                shown |= dict.fromkeys(("probe", *_probe(value, where)), where)
                continue
            _known(name, where)
            if name in given:
                raise UsageError(f"{name} is set twice, also as '{safe_text(key)}' ({where}); keep one")
            parts = value.split(SEPARATED[name]) if isinstance(value, str) and name in SEPARATED else value
            given[name] = beside(name, parts, self.path.parent, cwd)
            shown[name] = where
        return Source(given, shown)


def _probe(entries: dict[str, Any], where: str) -> dict[str, Any]:
    """`probe = {task = "recall", lag = 50}` as the settings it stands for."""
    names = {"task": "task", "lag": "needs_lag", "lags": "lags", "train_steps": "train_steps"}
    found = {key.replace("-", "_"): value for key, value in entries.items()}
    for key in found:
        if key not in names:
            raise UsageError(f"{unknown('entry', key, names)} of probe ({where})")
    return {names[key]: value for key, value in found.items()}


def tables(cwd: Path) -> list[Table]:
    """The tables of the nearest folder upwards that has any, weakest first."""
    for folder in (cwd, *cwd.parents):
        found = []
        for file, key in (("pyproject.toml", ("tool", "gradscope")), ("gradscope.toml", ())):
            path = folder / file
            table = _table(path, key) if path.is_file() else None
            if table is not None:
                found.append(table)
        if found:
            return found
    return []


def _table(path: Path, key: tuple[str, ...]) -> Table | None:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if key and key[-1] not in text:
            return None  # somebody else's file: no reason to judge it
        content: Any = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read {safe_text(path)}: {safe_text(error)}; correct or remove it") from error
    for part in key:
        content = content.get(part) if isinstance(content, dict) else None
    if content is not None and not isinstance(content, dict):
        raise UsageError(f"[{'.'.join(key)}] in {safe_text(path)} is not a table; write its settings as name = value")
    return None if content is None else Table(path, key, content, text)


def beside(name: str, value: Any, folder: Path, cwd: Path) -> Any:
    """A path in a configuration file counts from that file, not from where the command was started."""
    if isinstance(value, list):
        return [beside(name, item, folder, cwd) for item in value]
    if not isinstance(value, str) or folder == cwd or not names_path(name, value):
        return value
    path, colon, attribute = value.partition(":")
    if not path or os.path.isabs(path) or not (folder / path).exists():
        return value
    return relative(folder / path, cwd) + colon + attribute


def _known(name: str, where: str) -> None:
    if name not in TYPES:
        known = (*TYPES, *GATE) if ".toml:" in where else tuple(TYPES)
        raise UsageError(f"{unknown('setting', name, known)} ({where})")
