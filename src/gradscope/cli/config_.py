"""`gradscope config`: every setting, its value, and where it came from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from gradscope.cli.output import emit

if TYPE_CHECKING:
    from gradscope.config.targets import Project


def config() -> int:
    """Print every setting with its value and where it came from.

    As lines for gradscope.toml; then those of each target.
    """
    from gradscope.config import build_spec
    from gradscope.config.sources import GATE
    from gradscope.config.targets import Project

    resolved = build_spec({}, cwd=Path.cwd(), environ=os.environ)
    project = Project(Path.cwd(), os.environ, {}, {})
    lines = [_line(name, value, resolved.origin[name]) for name, value in asdict(resolved.spec).items()]
    for name in GATE:
        entry = project.entry(name) if name != "targets" else None
        if entry is not None:
            lines.append(_line(name, *entry))
    emit("\n".join([*lines, *_targets(project), ""]))
    return 0


def _targets(project: Project) -> Iterator[str]:
    """Each target as a table: its model, limits, and every setting that is not the default."""
    from gradscope.config.sources import LIMITS

    for one in project.asked([]) if project.written else ():
        yield f"\n[targets.{_toml(one.target.name)}]"
        yield _line("model", one.target.spec.models[0], one.origin["models"])
        if one.target.over:
            yield f"over = {_toml(one.target.over)}"
        values = {**asdict(one.target.spec), **asdict(one.target.limits)}
        for name, origin in one.origin.items():
            told = origin != "default" or name in (*LIMITS, "fail_on", "seeds")
            if told and name != "models" and values[name] not in (None, {}):
                yield _line(name, values[name], origin)


def _line(name: str, value: object, origin: str) -> str:
    """A line for gradscope.toml; what has no value, or nothing in it, cannot be written and is told."""
    if value is None or value == ():
        return f"# {name} is {'automatic' if value is None else 'empty'}  # {origin}"
    return f"{name} = {_toml(value)}  # {origin}"


def _toml(value: object) -> str:
    """A value as TOML: characters outside ASCII as they are, since TOML knows no pairs of surrogates."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(key)} = {_toml(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
