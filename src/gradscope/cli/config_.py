"""`gradscope config`: every setting, its value, and where it came from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from gradscope.cli.output import emit


def config() -> int:
    """Print every setting with its value and where it came from.

    As lines for gradscope.toml; then those of each target.
    """
    from gradscope.config import build_spec

    resolved = build_spec({}, cwd=Path.cwd(), environ=os.environ)
    lines = []
    for name, value in asdict(resolved.spec).items():
        origin = resolved.origin[name]
        lines.append(f"# {name} is automatic  # {origin}" if value is None else f"{name} = {_toml(value)}  # {origin}")
    emit("\n".join([*lines, *_targets(), ""]))
    return 0


def _targets() -> Iterator[str]:
    """Each target as a table: its model, limits, and every setting that is not the default."""
    from gradscope.config.sources import LIMITS
    from gradscope.config.targets import Project

    project = Project(Path.cwd(), os.environ, {}, {})
    for one in project.asked([]) if project.written else ():
        yield f"\n[targets.{json.dumps(one.target.name)}]"
        yield f"model = {json.dumps(one.target.spec.models[0])}  # {one.origin['models']}"
        if one.target.over:
            yield f"over = {_toml(one.target.over)}"
        values = {**asdict(one.target.spec), **asdict(one.target.limits)}
        for name, origin in one.origin.items():
            told = origin != "default" or name in (*LIMITS, "fail_on")
            if told and name != "models" and values[name] not in (None, {}):
                yield f"{name} = {_toml(values[name])}  # {origin}"


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {number!r}" for key, number in value.items()) + "}"
    return json.dumps(value)
