"""`gradscope config`: every setting, its value, and where it came from."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from gradscope.cli.output import emit
from gradscope.config import build_spec


def config() -> int:
    """Print every setting with its value and origin, as lines for gradscope.toml."""
    resolved = build_spec({}, cwd=Path.cwd(), environ=os.environ)
    lines = []
    for name, value in asdict(resolved.spec).items():
        origin = resolved.origin[name]
        lines.append(f"# {name} is automatic  # {origin}" if value is None else f"{name} = {_toml(value)}  # {origin}")
    emit("\n".join([*lines, ""]))
    return 0


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {number!r}" for key, number in value.items()) + "}"
    return json.dumps(value)
